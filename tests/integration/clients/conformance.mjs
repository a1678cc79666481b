// What OpenAI's own client makes of the server at argv[2] for the recording at argv[3], as JSON.
import fs from "node:fs";
import OpenAI from "openai";

const [url, recording] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "any", maxRetries: 0 });
const ask = (options) =>
  client.audio.transcriptions.create({ model: "medical-asr", file: fs.createReadStream(recording), ...options });

const told = {};
for (const format of ["json", "text", "srt", "vtt"]) told[format] = await ask({ response_format: format });
told.verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
told.logprobs = (await ask({ include: ["logprobs"] })).logprobs;
told.keywords = (await ask({ keywords: ["losartan"], prompt: "amiodarone", language: "en", temperature: 0 })).text;
told.cut = (await ask({ chunking_strategy: { type: "server_vad", silence_duration_ms: 300 } })).text;

told.events = [];
for await (const event of await ask({ stream: true })) told.events.push(event);

told.models = [];
for await (const model of client.models.list()) told.models.push(model.id);
told.model = (await client.models.retrieve("medical-asr")).id;

told.errors = {};
const failing = {
  model: () => ask({ model: "whisper-1" }),
  format: () => ask({ response_format: "diarized_json" }),
  translation: () => client.audio.translations.create({ model: "medical-asr", file: fs.createReadStream(recording) }),
};
for (const [name, call] of Object.entries(failing)) {
  try {
    await call();
  } catch (error) {
    told.errors[name] = { kind: error.constructor.name, param: error.param, request: Boolean(error.requestID) };
  }
}
console.log(JSON.stringify(told));
