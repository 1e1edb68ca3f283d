// Which units of a hidden layer make the network see a seven? Asked over gRPC, with the calls that the .proto says.
//
//     onnx-attribution serve tests/data/digits    # elsewhere
//     npm install --prefix examples/node
//     node examples/node/attribute.mjs 127.0.0.1:8081

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address = "127.0.0.1:8081"] = process.argv.slice(2);
const folders = ["../../proto", "node_modules/google-proto-files"];
const definition = loader.loadSync("attribution.proto", {
  includeDirs: folders.map((folder) => fileURLToPath(new URL(folder, import.meta.url))),
  keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true,
});
const { AttributionService } = grpc.loadPackageDefinition(definition).onnx_attribution.v1;
// Of a server with certificates and tokens: grpc.credentials.createSsl(), and metadata with "authorization".
const client = new AttributionService(address, grpc.credentials.createInsecure());

const SEVEN = "003fff10" + "009b9f30" + "00103f30" + "00009e00" + "004fff60" + "002cf710" + "000d8000" + "004e1000";
const image = Float32Array.from(SEVEN, (one) => parseInt(one, 16) / 15);

/** The attributions of one request, of any size: arrays come in chunks of at most 1 MiB, of each revision anew. */
async function attribute(request, seconds = 60) {
  const call = client.StreamAttribute(request, { deadline: Date.now() + 1000 * seconds });
  const revisions = new Map();
  for await (const { accepted, progress, revision, chunk, completed } of call) {
    if (accepted) console.log(`accepted: ${accepted.planned_evaluations} evaluations of ${accepted.target_tensor}`);
    if (progress) console.log(`${progress.done} of ${progress.planned}`);
    if (revision) revisions.set(revision.number, { ...revision.summary, bytes: revision.summary.layers.map(() => []) });
    if (chunk) revisions.get(chunk.revision).bytes[chunk.layer].push(chunk.data);
    if (completed) {
      const { layers, bytes, warnings } = revisions.get(completed.best_revision);
      return { why: completed.stop_reason, warnings, layers: layers.map((layer, k) => ({ ...layer, values: floats(bytes[k]) })) };
    }
  }
}

function floats(parts) {
  const bytes = new Uint8Array(Buffer.concat(parts)); // a copy, so that it begins where four bytes are a number
  return new Float32Array(bytes.buffer);
}

try {
  const { why, layers } = await attribute({
    model: "digits",
    inputs: [{ name: "image", datatype: "FP32", shape: [1, 1, 8, 8], raw: Buffer.from(image.buffer) }],
    layers: ["conv2"],
    target: { selectors: [{ axes: [{ index: 7 }] }] },
    neuron_ig: { tolerance: 0.01 },
    last_only: true,
  });
  console.log(why);
  for (const { name, shape, sums, residuals, error_estimates, values } of layers) {
    const best = values.indexOf(Math.max(...values));
    console.log(`${name} [${shape}] sum ${sums[0]} residual ${residuals[0]} L1 error ${error_estimates[0]}`);
    console.log(`most is unit ${best}: ${values[best]}`);
  }
} catch (error) {
  console.error(`${grpc.status[error.code] ?? error.name}: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
