"""Step 5: what was made, checked: is it what it says it is?"""
