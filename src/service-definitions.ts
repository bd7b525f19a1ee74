/**
 * gRPC services from the descriptors that are made of the .proto files at build time (scripts/generate.sh). What reads
 * and writes a message is built when a call first needs it: a program uses a few messages of many, and to build them
 * all takes longer than anything else at its start.
 */
import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import protobuf, { type INamespace, type Method, type Type } from 'protobufjs/light.js';

/** As in scripts/generate.sh: int64 and enum values are strings, absent fields have their defaults, a oneof says which member is set. */
const CONVERSION = { longs: String, enums: String, defaults: true, oneofs: true } as const;

/** The services of a package ("csi.v1") by their names ("Node"). Methods have the names of the .proto file. */
export function serviceDefinitions(
  descriptor: INamespace,
  packageName: string,
): ReadonlyMap<string, ServiceDefinition> {
  const found = protobuf.Root.fromJSON(descriptor).lookup(packageName);
  if (!(found instanceof protobuf.Namespace)) throw new Error(`the descriptor has no package ${packageName}`);
  const services = found.nestedArray.filter((member) => member instanceof protobuf.Service);
  return new Map(
    services.map(({ name, methodsArray }) => [
      name,
      Object.fromEntries(methodsArray.map((method) => [method.name, definition(`/${packageName}.${name}`, method)])),
    ]),
  );
}

function definition(servicePath: string, method: Method): MethodDefinition<object, object> {
  const request = (): Type => typeOf(method, method.requestType);
  const response = (): Type => typeOf(method, method.responseType);
  return {
    path: `${servicePath}/${method.name}`,
    originalName: method.name.charAt(0).toLowerCase() + method.name.slice(1),
    requestStream: method.requestStream === true,
    responseStream: method.responseStream === true,
    requestSerialize: (message) => written(request(), message),
    requestDeserialize: (bytes) => read(request(), bytes),
    responseSerialize: (message) => written(response(), message),
    responseDeserialize: (bytes) => read(response(), bytes),
  };
}

function typeOf(method: Method, name: string): Type {
  const { parent } = method;
  if (parent === null) throw new Error(`${method.name} belongs to no service`);
  return parent.lookupType(name);
}

function written(type: Type, message: object): Buffer {
  const bytes = type.encode(type.fromObject(message)).finish();
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function read(type: Type, bytes: Buffer): object {
  return type.toObject(type.decode(bytes), CONVERSION);
}
