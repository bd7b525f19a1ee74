/**
 * Versions of the CNI specification: which are known, which are chosen, how they compare. Pure.
 */

/** Every published version, oldest first. Berth speaks all of them. */
export const CNI_VERSIONS = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

/** Shape of results: versions of one generation differ only in fields that may be missing. */
export type Generation = 'old' | 'rich' | 'modern';

/** True for a published version. */
export function isKnownVersion(version: string): boolean {
  return CNI_VERSIONS.some((known) => known === version);
}

/** The generation of a known version: up to 0.2, up to 0.4, 1.x. */
export function generationOf(version: string): Generation {
  if (compareVersions(version, '0.3.0') < 0) return 'old';
  return compareVersions(version, '1.0.0') < 0 ? 'rich' : 'modern';
}

/** Three numbers out of up to three parts ("1.0" is 1.0.0); undefined when it is no version. */
export function parseVersion(version: string): readonly [number, number, number] | undefined {
  if (!/^\d{1,6}(\.\d{1,6}){0,2}$/.test(version)) return undefined;
  const [major = 0, minor = 0, micro = 0] = version.split('.').map(Number);
  return [major, minor, micro];
}

/** Negative when `a` is older than `b`. What is no version is older than all. */
export function compareVersions(a: string, b: string): number {
  const left = parseVersion(a) ?? [-1, 0, 0];
  const right = parseVersion(b) ?? [-1, 0, 0];
  return left[0] - right[0] || left[1] - right[1] || left[2] - right[2];
}

/** True when the version has the features of `since`. */
export function atLeast(version: string, since: (typeof CNI_VERSIONS)[number]): boolean {
  return compareVersions(version, since) >= 0;
}

/**
 * The versions a configuration may be run at, the highest first: the known ones out of `cniVersion` and `cniVersions`.
 * An empty `cniVersion` means 0.1.0.
 * @throws {TypeError} when an entry is no version or none is known
 */
export function usableVersions(cniVersion: string, cniVersions: readonly string[]): readonly string[] {
  const first = cniVersion === '' && cniVersions.length === 0 ? '0.1.0' : cniVersion;
  const offered = [...(first === '' ? [] : [first]), ...cniVersions];
  for (const version of offered) {
    if (parseVersion(version) === undefined) throw new TypeError(`cniVersion ${JSON.stringify(version)} is no version`);
  }
  const known = CNI_VERSIONS.filter((version) => offered.some((other) => compareVersions(other, version) === 0));
  if (known.length === 0) throw new TypeError(`cniVersion ${offered.join(', ')} is newer than ${CNI_VERSIONS.at(-1)}`);
  return known.toReversed();
}
