/** Services from descriptors speak as gRPC's own loader does from the .proto files. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import protobuf, { type INamespace, type Type } from 'protobufjs';
import { descriptor as berth } from '../src/api/generated/descriptor.ts';
import { descriptor as csi } from '../src/csi/generated/csi-descriptor.ts';
import { descriptor as registration } from '../src/csi/generated/registration-descriptor.ts';
import { serviceDefinitions } from '../src/service-definitions.ts';

const FILES: ReadonlyArray<readonly [directory: string, file: string, packageName: string, descriptor: INamespace]> = [
  ['csi-proto', 'csi.proto', 'csi.v1', csi],
  ['csi-proto', 'pluginregistration.proto', 'pluginregistration', registration],
  ['api-proto', 'berth.proto', 'berth.v1', berth],
];

/** A message with something in every field, of each oneof in its last member; lists and maps have two entries. */
function filled(type: Type, depth = 0): Record<string, unknown> {
  const message: Record<string, unknown> = {};
  for (const field of type.fieldsArray) {
    field.resolve();
    const one = (index: number): unknown => {
      const { resolvedType } = field;
      if (resolvedType instanceof protobuf.Enum) return Object.keys(resolvedType.values).at(-1);
      if (resolvedType !== null) return depth > 5 ? {} : filled(resolvedType, depth + 1);
      if (field.type === 'bool') return true;
      if (field.type === 'string') return `text ${index}`;
      if (field.type === 'bytes') return Buffer.from([0, 255, index]);
      return field.type.endsWith('64') ? '9007199254740993' : 7 + index;
    };
    if (field instanceof protobuf.MapField) message[field.name] = { a: one(0), b: one(1) };
    else if (field.repeated) message[field.name] = [one(0), one(1)];
    else message[field.name] = one(0);
  }
  for (const { fieldsArray } of type.oneofsArray) {
    for (const { name } of fieldsArray.slice(0, -1)) delete message[name];
  }
  return message;
}

for (const [directory, file, packageName, descriptor] of FILES) {
  test(`${file}: every message is written and read as the loader of gRPC does`, () => {
    const includeDirs = [fileURLToPath(new URL(`../${directory}`, import.meta.url))];
    const theirs = loadSync(file, { includeDirs, longs: String, enums: String, defaults: true, oneofs: true });
    const root = protobuf.Root.fromJSON(descriptor);
    let messages = 0;
    for (const [service, methods] of serviceDefinitions(descriptor, packageName)) {
      const expected = theirs[`${packageName}.${service}`];
      assert.ok(expected !== undefined && !('format' in expected));
      assert.deepEqual(Object.keys(methods), Object.keys(expected));
      for (const [name, method] of Object.entries(methods)) {
        const their: ServiceDefinition[string] | undefined = expected[name];
        assert.ok(their !== undefined);
        for (const key of ['path', 'requestStream', 'responseStream', 'originalName'] as const) {
          assert.equal(method[key], their[key], `${name} ${key}`);
        }
        const { requestType, responseType } = root.lookupService(`${packageName}.${service}`).methods[name] ?? {};
        assert.ok(requestType !== undefined && responseType !== undefined);
        const request = filled(root.lookupType(`${packageName}.${requestType}`));
        const response = filled(root.lookupType(`${packageName}.${responseType}`));
        for (const message of [request, {}]) {
          const bytes = method.requestSerialize(message);
          assert.deepEqual(bytes, their.requestSerialize(message), `${name} request`);
          assert.deepEqual(method.requestDeserialize(bytes), their.requestDeserialize(bytes), `${name} request`);
        }
        for (const message of [response, {}]) {
          const bytes = method.responseSerialize(message);
          assert.deepEqual(bytes, their.responseSerialize(message), `${name} response`);
          assert.deepEqual(method.responseDeserialize(bytes), their.responseDeserialize(bytes), `${name} response`);
        }
        messages += 2;
      }
    }
    assert.ok(messages > 0);
  });
}
