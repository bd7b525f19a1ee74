/** csi-proto/csi.proto, and what the code says about it, against the facts of CSI 1.12. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { z } from 'zod';
import {
  adviceFor,
  GENERAL_REACTIONS,
  isCreateUnsettled,
  mayBearVolume,
  REACTIONS,
  RPC_REACTIONS,
} from '../../src/csi/error-reactions.ts';
import { CsiError, checkMap, checkPluginName, checkText, LIMITS, loadCsi } from '../../src/csi/protocol.ts';
import { redacted, SECRET_FIELDS, withoutSecrets } from '../../src/csi/redaction.ts';
import { CODES, RuntimeError } from '../../src/errors.ts';
import { parseProto } from './proto-text.ts';

const fact = z.object({
  name: z.string(),
  number: z.int(),
  label: z.enum(['singular', 'repeated', 'map']),
  type: z.string(),
  keyType: z.string().optional(),
  oneof: z.string().optional(),
  secret: z.boolean(),
  maturity: z.string(),
});
const method = z.object({
  request: z.string(),
  response: z.string(),
  requestStream: z.boolean(),
  responseStream: z.boolean(),
});
const row = z.object({ code: z.enum(CODES), reaction: z.string() });
const factsSchema = z.object({
  services: z.record(z.string(), z.object({ rpcs: z.record(z.string(), method) })),
  messages: z.record(z.string(), z.object({ fields: z.array(fact) })),
  enums: z.record(z.string(), z.object({ values: z.array(z.object({ name: z.string(), number: z.int() })) })),
  secretFields: z.array(z.string()),
  errors: z.object({ general: z.array(row), perRpc: z.record(z.string(), z.array(row)) }),
});
const facts = factsSchema.parse(JSON.parse(readFileSync(new URL('../fixtures/csi.json', import.meta.url), 'utf8')));
const proto = parseProto(readFileSync(new URL('../../csi-proto/csi.proto', import.meta.url), 'utf8'));

/** A type as the facts name it: nested ones by their full name. */
function fullName(type: string, message: string): string {
  const scopes = message.split('.');
  for (let depth = scopes.length; depth > 0; depth -= 1) {
    const name = [...scopes.slice(0, depth), type].join('.');
    if (proto.messages.has(name) || proto.enums.has(name)) return name;
  }
  return type;
}

describe('csi.proto', () => {
  test('has every message with every field, number and type of CSI 1.12, and no other', () => {
    const ours = [...proto.messages].map(([message, fields]) => [
      message,
      fields.map(({ name, number, label, type, keyType, oneof, options }) => {
        const secret = options.includes('csi_secret');
        return { name, number, label, type: fullName(type, message), keyType, oneof, secret };
      }),
    ]);
    const theirs = Object.entries(facts.messages).map(([message, { fields }]) => [
      message,
      fields.map(({ name, number, label, type, keyType, oneof, secret }) => ({
        ...{ name, number, label, type, keyType, oneof, secret },
      })),
    ]);
    assert.deepEqual(sorted(ours), sorted(theirs));
    assert.equal(proto.messages.size, 94);
  });

  test('has every enum value', () => {
    const ours = [...proto.enums].map(([name, values]) => [name, Object.fromEntries(values)]);
    const theirs = Object.entries(facts.enums).map(([name, { values }]) => [
      name,
      Object.fromEntries(values.map((value) => [value.name, value.number])),
    ]);
    assert.deepEqual(sorted(ours), sorted(theirs));
    assert.equal(proto.enums.size, 8);
  });

  test('has every method of every service', () => {
    const ours = [...proto.services].map(([name, methods]) => [name, Object.fromEntries(methods)]);
    const theirs = Object.entries(facts.services).map(([name, { rpcs }]) => [name, rpcs]);
    assert.deepEqual(sorted(ours), sorted(theirs));
  });

  test('is loaded with every method at its path', () => {
    const csi = loadCsi();
    for (const [service, { rpcs }] of Object.entries(facts.services)) {
      const paths = Object.values(csi.service(service)).map(({ path }) => path);
      assert.deepEqual(
        paths.sort(),
        Object.keys(rpcs)
          .map((name) => `/csi.v1.${service}/${name}`)
          .sort(),
      );
    }
  });
});

describe('secrets (K24)', () => {
  test('the redaction list holds exactly the fields marked csi_secret', () => {
    const marked = [...proto.messages].flatMap(([message, fields]) =>
      fields.filter(({ options }) => options.includes('csi_secret')).map(({ name }) => `${message}.${name}`),
    );
    assert.deepEqual([...SECRET_FIELDS].sort(), marked.sort());
    assert.deepEqual([...SECRET_FIELDS].sort(), [...facts.secretFields].sort());
  });

  test('requests are redacted at every depth, and other fields kept', () => {
    const request = {
      name: 'data',
      secrets: { key: 'hush-hush' },
      parameters: { token: 'hush-hush' },
      volumeCapabilities: [{ mount: { fsType: 'ext4', mountFlags: ['password=hush-hush'] } }],
    };
    const text = JSON.stringify(redacted('CreateVolume', request));
    assert.ok(!text.includes('hush'), text);
    assert.match(text, /"name":"data".*ext4/);
  });

  test('a message that repeats a secret loses it, plain and in base64', () => {
    const text = `login with hush-hush (${Buffer.from('hush-hush').toString('base64')}) refused`;
    assert.equal(withoutSecrets(text, { key: 'hush-hush' }), 'login with [redacted] ([redacted]) refused');
    assert.equal(withoutSecrets('no hush-hush', { user: 'hush', key: 'hush-hush' }), 'no [redacted]');
  });
});

describe('limits (K23)', () => {
  const refused = (check: () => unknown): void => {
    assert.throws(check, (error) => error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT');
  };

  test('text, maps and names over their limits are refused, counted in bytes', () => {
    checkText('volume_id', 'é'.repeat(64));
    refused(() => checkText('volume_id', 'é'.repeat(65)));
    refused(() => checkText('volume_id', '\ud800'));
    checkMap('publish_context', { k: 'v'.repeat(LIMITS.map - 1) });
    refused(() => checkMap('publish_context', { k: 'v'.repeat(LIMITS.map) }));
    for (const name of ['', '.', '..', '../x', 'a/b', 'a\nb', 'a\0b', '-v', 'a-', 'x'.repeat(64)]) {
      refused(() => checkPluginName('driver', name));
    }
  });

  test('a key "__proto__" is data, on the wire and in checks', () => {
    const context: Record<string, string> = JSON.parse('{"__proto__":"x","constructor":"y"}');
    const call = loadCsi().calls.ControllerPublishVolume;
    const answer = call.responseDeserialize(call.responseSerialize({ publishContext: context }));
    assert.deepEqual(Object.entries(answer.publishContext), Object.entries(context));
    assert.deepEqual(Object.entries(checkMap('publish_context', answer.publishContext)), Object.entries(context));
  });
});

describe('error reactions', () => {
  test('are those of CSI 1.12, for every code of every call Berth makes', () => {
    const calls = Object.keys(loadCsi().calls).filter((rpc) => isRpc(rpc) && facts.errors.perRpc[rpc] !== undefined);
    assert.ok(calls.length >= 9);
    for (const rpc of calls.filter(isRpc)) {
      for (const { code } of facts.errors.perRpc[rpc] ?? []) {
        const lawful = (facts.errors.perRpc[rpc] ?? []).filter((row) => row.code === code).map((row) => row.reaction);
        const ours = RPC_REACTIONS[rpc]?.[code] ?? GENERAL_REACTIONS[code];
        assert.ok(ours !== undefined && lawful.includes(ours), `${rpc} ${code}: ${ours} is none of ${lawful.join()}`);
      }
    }
    const general = Object.fromEntries(facts.errors.general.map(({ code, reaction }) => [code, reaction]));
    assert.deepEqual(GENERAL_REACTIONS, general);
    assert.equal(adviceFor('CreateVolume', 'ALREADY_EXISTS'), REACTIONS['fix-or-rename']);
  });

  test('a creation is unsettled where a volume may still come of it, and settled where the plugin refused (K29)', () => {
    for (const code of ['CANCELLED', 'DEADLINE_EXCEEDED', 'UNAVAILABLE', 'ABORTED'] as const) {
      assert.deepEqual([isCreateUnsettled(code, false), isCreateUnsettled(code, true)], [true, true], code);
    }
    for (const code of ['UNKNOWN', 'INTERNAL'] as const) {
      assert.deepEqual([isCreateUnsettled(code, false), isCreateUnsettled(code, true)], [true, false], code);
    }
    for (const code of ['INVALID_ARGUMENT', 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED', 'OUT_OF_RANGE'] as const) {
      assert.equal(isCreateUnsettled(code, false), false, code);
      assert.equal(mayBearVolume(new CsiError(code, 'p', 'CreateVolume', 'x')), false, code);
    }
    for (const code of ['ABORTED', 'UNKNOWN', 'INTERNAL', 'DATA_LOSS'] as const) {
      assert.equal(mayBearVolume(new CsiError(code, 'p', 'CreateVolume', 'x')), true, code);
    }
  });
});

/** The calls that have reactions of their own. */
function isRpc(name: string): name is keyof typeof RPC_REACTIONS {
  return name in RPC_REACTIONS;
}

function sorted<T>(entries: readonly T[]): T[] {
  return [...entries].sort((a, b) => (String(a) < String(b) ? -1 : 1));
}
