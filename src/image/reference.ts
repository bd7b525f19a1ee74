/**
 * Names of images, in the grammar docker users know:
 *
 *   [HOST[:PORT]/]PATH[:TAG][@DIGEST]      "busybox", "registry.example:5000/team/app:1.2", "app@sha256:..."
 *
 * A name without a host means docker.io, one component of docker.io means library/, no tag and no digest means latest.
 * What people see is the familiar form, with what can be left out left out, so that every way of writing a name gives
 * the same text. Pure: nothing is looked up anywhere.
 */
import { invalid } from '../errors.ts';

/** The parts of an image name, every default filled in. */
export interface ImageReference {
  /** "docker.io", "registry.example:5000" */
  readonly host: string;
  /** "library/busybox" */
  readonly path: string;
  /** Absent only beside a digest. */
  readonly tag?: string;
  /** "sha256:" and 64 hex digits. */
  readonly digest?: string;
}

const DEFAULT_HOST = 'docker.io';
const DEFAULT_NAMESPACE = 'library/';
const DEFAULT_TAG = 'latest';
/** Longest host and path together, as registries have it. */
const MAX_NAME_LENGTH = 255;
/** Name, tag and digest at their longest; longer text is not even looked at. */
const MAX_REFERENCE_LENGTH = 512;

const HOST_LABEL = '[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?';
const HOST = new RegExp(`^(?:${HOST_LABEL}(?:\\.${HOST_LABEL})*|\\[[0-9a-fA-F:]{2,39}\\])(?::([0-9]{1,5}))?$`);
const PATH_COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/;
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;
const HEX_ID = /^[0-9a-f]{64}$/;
/** `sha256:abcd` would be read as an image id. */
const RESERVED_NAMES: ReadonlySet<string> = new Set(['sha256', 'sha512']);

/**
 * Reads an image name.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the part that does not fit
 */
export function parseReference(text: string): ImageReference {
  const refuse = (reason: string): Error => invalid('image reference', `${quoted(text)} ${reason}`);
  if (text === '') throw refuse('is empty');
  if (text.length > MAX_REFERENCE_LENGTH) throw refuse(`is longer than ${MAX_REFERENCE_LENGTH} characters`);
  const [nameAndTag = '', digest, ...more] = text.split('@');
  if (more.length > 0) throw refuse('has more than one "@"');
  if (digest !== undefined && !DIGEST.test(digest)) throw refuse('has a digest that is not sha256: and 64 hex digits');
  // A colon before the last slash belongs to the port of a host.
  const colon = nameAndTag.indexOf(':', nameAndTag.lastIndexOf('/') + 1);
  const name = colon < 0 ? nameAndTag : nameAndTag.slice(0, colon);
  const tag = colon < 0 ? undefined : nameAndTag.slice(colon + 1);
  if (tag !== undefined && !TAG.test(tag)) throw refuse(`has a tag that does not match ${TAG.source}`);
  const { host, path } = splitName(name, refuse);
  if (digest !== undefined) return { host, path, digest, ...(tag === undefined ? {} : { tag }) };
  return { host, path, tag: tag ?? DEFAULT_TAG };
}

/** The familiar form: "busybox:latest" for docker.io/library/busybox. */
export function formatReference(reference: ImageReference): string {
  const { host, path, tag, digest } = reference;
  const short = path.startsWith(DEFAULT_NAMESPACE) ? path.slice(DEFAULT_NAMESPACE.length) : path;
  // A path of docker.io that begins like a host keeps its host, or it would be read as that host's.
  const familiar = host === DEFAULT_HOST && !beginsWithHost(short) ? short : `${host}/${path}`;
  return `${familiar}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
}

/**
 * The familiar form of any way of writing a name.
 * @throws {RuntimeError} INVALID_ARGUMENT as {@link parseReference}
 */
export function normalReference(text: string): string {
  return formatReference(parseReference(text));
}

function splitName(name: string, refuse: (reason: string) => Error): { host: string; path: string } {
  if (name.length > MAX_NAME_LENGTH) throw refuse(`has a name longer than ${MAX_NAME_LENGTH} characters`);
  const hasHost = beginsWithHost(name);
  const slash = name.indexOf('/');
  const host = hasHost ? name.slice(0, slash) : DEFAULT_HOST;
  const rest = hasHost ? name.slice(slash + 1) : name;
  const port = HOST.exec(host);
  if (port === null || Number(port[1] ?? 1) < 1 || Number(port[1] ?? 1) > 65_535) {
    throw refuse(`has ${quoted(host)} for a registry host, which is none`);
  }
  const bad = rest.split('/').find((component) => !PATH_COMPONENT.test(component));
  if (bad !== undefined) {
    throw refuse(`has ${quoted(bad)} in its name: lower-case letters and digits, separated by ".", "_", "__" or "-"`);
  }
  const canonicalHost = host === 'index.docker.io' ? DEFAULT_HOST : host;
  if (canonicalHost !== DEFAULT_HOST) return { host, path: rest };
  const path = rest.includes('/') ? rest : `${DEFAULT_NAMESPACE}${rest}`;
  const short = path.slice(DEFAULT_NAMESPACE.length);
  if (path.startsWith(DEFAULT_NAMESPACE) && (HEX_ID.test(short) || RESERVED_NAMES.has(short))) {
    throw refuse('looks like the id of an image');
  }
  return { host: canonicalHost, path };
}

/** The first of several components is a host when no path component could look like it, or when it is localhost. */
function beginsWithHost(name: string): boolean {
  const slash = name.indexOf('/');
  return slash >= 0 && (/[.:A-Z[]/.test(name.slice(0, slash)) || name.slice(0, slash) === 'localhost');
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}
