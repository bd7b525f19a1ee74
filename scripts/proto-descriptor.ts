/**
 * Writes a .proto file as a TypeScript module with its protobuf.js descriptor to stdout: `node scripts/proto-descriptor.ts
 * FILE`. Field names become camelCase, as in the generated types. Options are left out: nothing reads them at run time.
 */
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import protobuf, { type INamespace } from 'protobufjs';

const OPTIONS = 'google/protobuf/descriptor.proto';

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('usage: proto-descriptor.ts FILE');

// What a file imports to declare options of its own.
const shipped: { nested: { google: { nested: { protobuf: Required<INamespace> } } } } = createRequire(import.meta.url)(
  'protobufjs/google/protobuf/descriptor.json',
);
const optionTypes = shipped.nested.google.nested.protobuf.nested;
protobuf.common('descriptor', optionTypes);

const root = new protobuf.Root();
root.resolvePath = (_origin, target) =>
  target === OPTIONS || protobuf.common.get(target) !== null ? target : join(dirname(file), target);
await root.load(basename(file), { keepCase: false });
const json = JSON.stringify(root.toJSON({ keepComments: false }), (key, value) => {
  const has = (member: string): boolean => typeof value === 'object' && value !== null && member in value;
  // A field may be called "options": it has a number.
  const isOptions = key === 'options' && !has('id');
  return isOptions || Object.hasOwn(optionTypes, key) || has('extend') ? undefined : value;
});
if (json.includes("'") || json.includes('\\')) throw new Error('the descriptor needs escaping');
process.stdout.write(`import type { INamespace } from 'protobufjs';

/** ${file} as a protobuf.js descriptor. */
export const descriptor: INamespace = JSON.parse('${json}');
`);
