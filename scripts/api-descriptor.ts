/**
 * Writes a .proto file as a TypeScript module with its protobuf.js descriptor to stdout: `node scripts/api-descriptor.ts
 * FILE`. Field names become camelCase, as in the generated types.
 */
import protobuf from 'protobufjs';

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('usage: api-descriptor.ts FILE');
const root = await new protobuf.Root().load(file, { keepCase: false });
const json = JSON.stringify(root.toJSON({ keepComments: false }));
if (json.includes("'") || json.includes('\\')) throw new Error('the descriptor needs escaping');
process.stdout.write(`import type { INamespace } from 'protobufjs';

/** ${file} as a protobuf.js descriptor. */
export const descriptor: INamespace = JSON.parse('${json}');
`);
