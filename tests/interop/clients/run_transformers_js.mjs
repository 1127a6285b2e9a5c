// transformers.js in node: what the docs show, for whatever folder the models lie in.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";

const [bundle, request, answer, modules] = process.argv.slice(2);
const { env, pipeline } = createRequire(join(modules, "x.js"))("@huggingface/transformers");
const { texts, prefix } = JSON.parse(readFileSync(request, "utf8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(bundle);
const embed = await pipeline("feature-extraction", basename(bundle));
const vectors = await embed(texts.map((text) => prefix + text), { pooling: "mean", normalize: true });
writeFileSync(answer, JSON.stringify({ version: env.version, vectors: vectors.tolist() }));
