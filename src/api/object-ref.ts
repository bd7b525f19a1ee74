/**
 * Names and ids as they come in with a call. What passes here is harmless wherever it goes: no path, no option, no
 * control character. Whether the object exists is for its owner to say.
 */
import { invalid } from '../errors.ts';

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
/** Any reference the image store may know: a registry may be an IPv6 address in brackets. */
const IMAGE_REF = /^[a-zA-Z0-9[][a-zA-Z0-9_.:@[\]-]*(\/[a-zA-Z0-9][a-zA-Z0-9_.:@-]*)*$/;
const MAX_IMAGE_REF_BYTES = 512;
const MAX_PATH_BYTES = 4095;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

/** A container's id, the beginning of one, or a name; also the name of a network, a volume or a plugin. */
export function checkRef(field: string, ref: string): string {
  if (ref === '') throw invalid(field, 'is empty');
  if (!NAME.test(ref)) throw invalid(field, `${quoted(ref)} must match ${NAME.source}`);
  return ref;
}

/** An image's id or reference: "busybox:1", "registry.example/team/app@sha256:...". */
export function checkImageRef(field: string, ref: string): string {
  if (ref === '') throw invalid(field, 'is empty');
  if (ref.length > MAX_IMAGE_REF_BYTES) throw invalid(field, `is longer than ${MAX_IMAGE_REF_BYTES} bytes`);
  if (!IMAGE_REF.test(ref)) throw invalid(field, `${quoted(ref)} is no image reference such as "busybox:1"`);
  return ref;
}

/** An absolute path on the host. */
export function checkHostPath(field: string, path: string): string {
  if (!path.startsWith('/')) throw invalid(field, `${quoted(path)} must be an absolute path`);
  if (CONTROL.test(path)) throw invalid(field, `${quoted(path)} has control characters`);
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) throw invalid(field, `is longer than ${MAX_PATH_BYTES} bytes`);
  return path;
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}
