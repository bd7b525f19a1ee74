/**
 * gRPC services from the descriptors that are made of the .proto files at build time (scripts/generate.sh). What reads
 * and writes a message is built when a call first needs it: a program uses a few messages of many, and to build them
 * all takes longer than anything else at its start.
 */
import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import protobuf, { type AnyNestedObject, type IMethod, type INamespace, type Type } from 'protobufjs/light.js';

type Members = Readonly<Record<string, AnyNestedObject>>;

/** As in scripts/generate.sh: int64 and enum values are strings, absent fields have their defaults, a oneof says which member is set. */
const CONVERSION = { longs: String, enums: String, defaults: true, oneofs: true } as const;

/** The services of a package ("csi.v1") by their names ("Node"). Methods have the names of the .proto file. */
export function serviceDefinitions(
  descriptor: INamespace,
  packageName: string,
): ReadonlyMap<string, ServiceDefinition> {
  const types = new MessageTypes(descriptor, packageName);
  const services = Object.entries(membersOf(descriptor, packageName)).flatMap(([name, member]) => {
    if (!('methods' in member)) return [];
    const methods = Object.entries(member.methods).map(([method, words]) => [
      method,
      definition(`/${packageName}.${name}/${method}`, method, words, types),
    ]);
    return [[name, Object.fromEntries(methods)] as const];
  });
  return new Map(services);
}

function definition(path: string, name: string, words: IMethod, types: MessageTypes): MethodDefinition<object, object> {
  return {
    path,
    originalName: name.charAt(0).toLowerCase() + name.slice(1),
    requestStream: words.requestStream === true,
    responseStream: words.responseStream === true,
    requestSerialize: (message) => written(types.get(words.requestType), message),
    requestDeserialize: (bytes) => read(types.get(words.requestType), bytes),
    responseSerialize: (message) => written(types.get(words.responseType), message),
    responseDeserialize: (bytes) => read(types.get(words.responseType), bytes),
  };
}

/** The messages of a package, each built with what its fields are made of and nothing else. */
class MessageTypes {
  readonly #members: Members;
  readonly #packageName: string;
  /** What other packages the descriptor has, such as google.protobuf. */
  readonly #others: Members;
  readonly #built = new Map<string, Type>();

  constructor(descriptor: INamespace, packageName: string) {
    this.#members = membersOf(descriptor, packageName);
    this.#packageName = packageName;
    const [first = ''] = packageName.split('.');
    this.#others = Object.fromEntries(Object.entries(descriptor.nested ?? {}).filter(([name]) => name !== first));
  }

  get(name: string): Type {
    const known = this.#built.get(name);
    if (known !== undefined) return known;
    const needed = new Map<string, AnyNestedObject>();
    this.#gather(name, needed);
    const root = protobuf.Root.fromJSON({ nested: this.#others });
    const type = root.define(this.#packageName).addJSON(Object.fromEntries(needed)).lookupType(name);
    root.resolveAll();
    this.#built.set(name, type);
    return type;
  }

  #gather(name: string, needed: Map<string, AnyNestedObject>): void {
    const member = this.#members[name];
    if (member === undefined || needed.has(name)) return;
    needed.set(name, member);
    for (const used of typesIn(member)) this.#gather(used, needed);
  }
}

/** Names of the types of all fields, also of messages that are declared inside. */
function typesIn(member: AnyNestedObject): string[] {
  const own = 'fields' in member ? Object.values(member.fields).map(({ type }) => type) : [];
  const nested = 'nested' in member ? Object.values(member.nested ?? {}) : [];
  return [...own, ...nested.flatMap(typesIn)].map((name) => name.split('.')[0] ?? name);
}

function membersOf(descriptor: INamespace, packageName: string): Members {
  let at: INamespace = descriptor;
  for (const part of packageName.split('.')) {
    const next = at.nested?.[part];
    if (next === undefined) throw new Error(`the descriptor has no package ${packageName}`);
    at = next as INamespace;
  }
  return at.nested ?? {};
}

function written(type: Type, message: object): Buffer {
  const bytes = type.encode(type.fromObject(message)).finish();
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function read(type: Type, bytes: Buffer): object {
  return type.toObject(type.decode(bytes), CONVERSION);
}
