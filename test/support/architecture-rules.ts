/**
 * The rules of the source tree as data and pure functions: who may import whom, how modules are named, how long they
 * are. test/architecture.test.ts applies them to the repository and to planted violations.
 */
import { isBuiltin } from 'node:module';
import { posix } from 'node:path';

/** Source files by path from the repository's root ("src/cni/protocol.ts"). */
export type SourceTree = ReadonlyMap<string, string>;

/** Longest module in lines. Most stay below 250. */
export const MAX_LINES = 350;

const RUNTIME_CONTRACTS = ['src/runtime/container.ts', 'src/runtime/isolator.ts', 'src/runtime/launcher.ts'] as const;

/** What is pure in `cni`: versions, results and resolver settings as they are written. */
const CNI_TEXTS = ['src/cni/cni-version.ts', 'src/cni/result-conversion.ts', 'src/cni/resolver.ts'] as const;

/** The composition root: what knows every part. */
const COMPOSITION: readonly string[] = ['src/main.ts', 'src/berthd.ts', 'src/daemon.ts', 'src/volume-parts.ts'];

/** What a part of the source may import beside itself: directories end with "/", "kernel" is src/*.ts less the root. */
const MAY_IMPORT: ReadonlyMap<string, readonly string[]> = new Map([
  ['kernel', []],
  ['runtime', ['kernel']],
  ['cni', ['kernel', ...RUNTIME_CONTRACTS]],
  ['csi', ['kernel', ...RUNTIME_CONTRACTS]],
  ['csi/local', ['kernel', 'src/csi/protocol.ts', 'src/csi/generated/']],
  ['image', ['kernel', ...RUNTIME_CONTRACTS]],
  ['ipam', ['kernel', 'src/cni/protocol.ts', ...CNI_TEXTS]],
  ['networks', ['kernel', 'src/cni/', 'src/ipam/', ...RUNTIME_CONTRACTS]],
  ['api', ['kernel', 'src/runtime/', 'src/cni/', 'src/csi/', 'src/ipam/', 'src/networks/', 'src/image/']],
  ['cli', ['src/api/generated/']],
  // Of the embedded driver it knows the command line only.
  ['composition', ['kernel', 'src/', 'src/csi/local/local-driver.ts']],
]);

const VAGUE_NAMES = ['index', 'util', 'utils', 'helper', 'helpers', 'common', 'misc', 'shared', 'types'] as const;

/** Every import of the tree that goes a way it must not go. */
export function importViolations(tree: SourceTree): string[] {
  return sources(tree).flatMap(([path, text]) => {
    const part = partOf(path);
    const allowed = MAY_IMPORT.get(part);
    if (allowed === undefined) return [`${path} lies in no part of the design: name it in MAY_IMPORT`];
    return relativeImports(path, text)
      .filter((target) => !mayImport(part, allowed, target))
      .map((target) => `${path} imports ${target}, ${part} may not`);
  });
}

function mayImport(part: string, allowed: readonly string[], target: string): boolean {
  const targetPart = partOf(target);
  if (targetPart === part) return true;
  // The embedded driver is a program of its own: whoever wants something of it asks over its socket.
  if (targetPart === 'csi/local' || targetPart === 'composition') return allowed.includes(target);
  return allowed.some((entry) => {
    if (entry === 'kernel') return targetPart === 'kernel';
    return entry.endsWith('/') ? target.startsWith(entry) : target === entry;
  });
}

function partOf(path: string): string {
  if (COMPOSITION.includes(path)) return 'composition';
  const [, first = '', second = '', ...rest] = path.split('/');
  if (second === '') return 'kernel';
  return first === 'csi' && second === 'local' && rest.length > 0 ? 'csi/local' : first;
}

/** Relative imports that name no file of the tree. */
export function unresolvedImports(tree: SourceTree, exists: (path: string) => boolean): string[] {
  return [...tree].flatMap(([path, text]) =>
    relativeImports(path, text)
      .filter((target) => !exists(target))
      .map((target) => `${path} imports ${target}, which is not there`),
  );
}

/** Packages that are imported but not named in package.json. `allowed` tells by path what is. */
export function undeclaredPackages(tree: SourceTree, allowed: (path: string) => ReadonlySet<string>): string[] {
  return [...tree].flatMap(([path, text]) =>
    imports(text)
      .filter((specifier) => !specifier.startsWith('.') && !isBuiltin(specifier))
      .map((specifier) => specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/'))
      .filter((name) => !allowed(path).has(name))
      .map((name) => `${path} imports ${name}, which package.json does not name`),
  );
}

/** Node's own modules go by their prefix. */
export function unprefixedBuiltins(tree: SourceTree): string[] {
  return [...tree].flatMap(([path, text]) =>
    imports(text)
      .filter((specifier) => isBuiltin(specifier) && !specifier.startsWith('node:'))
      .map((specifier) => `${path} imports ${specifier} without node:`),
  );
}

/** Modules that are longer than {@link MAX_LINES}. */
export function longModules(tree: SourceTree): string[] {
  return [...tree].flatMap(([path, text]) => {
    const lines = text.replace(/\n$/, '').split('\n').length;
    return lines > MAX_LINES ? [`${path} has ${lines} lines`] : [];
  });
}

/** Names that say nothing about what is inside, and names that are not kebab-case. */
export function badNames(tree: SourceTree): string[] {
  return [...tree.keys()].flatMap((path) => {
    const parts = path
      .replace(/\.(test|integration)\.ts$/, '')
      .replace(/\.ts$/, '')
      .split('/');
    const vague = parts.filter((part) => VAGUE_NAMES.some((name) => part === name || part.endsWith(`-${name}`)));
    const odd = parts.filter((part) => !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(part));
    return [
      ...vague.map((part) => `${path}: "${part}" says nothing about what is inside`),
      ...odd.map((part) => `${path}: "${part}" is not kebab-case`),
    ];
  });
}

/** Modules of src that do not open with a comment saying what they own. */
export function missingHeads(tree: SourceTree): string[] {
  return sources(tree)
    .filter(([, text]) => !/^(#!.*\n)?\/\*\*/.test(text))
    .map(([path]) => `${path} does not open with a comment that says what it is for`);
}

/** Programs that remove trees by fs.promises.rm, which follows links in directories that are immutable. */
export function unsafeRemovals(tree: SourceTree): string[] {
  return sources(tree)
    .filter(([, text]) => /^import \{[^}]*\brm\b[^}]*\} from ['"]node:fs\/promises['"]/m.test(text))
    .map(([path]) => `${path} imports rm of node:fs/promises: src/remove-tree.ts says why not`);
}

function sources(tree: SourceTree): (readonly [string, string])[] {
  return [...tree].filter(([path]) => path.startsWith('src/'));
}

function relativeImports(path: string, text: string): string[] {
  return imports(text)
    .filter((specifier) => specifier.startsWith('.'))
    .map((specifier) => posix.normalize(posix.join(posix.dirname(path), specifier)));
}

/** What a module imports, re-exports or loads, as written. Statements start a line, as the formatter has them. */
export function imports(text: string): string[] {
  const statements = text.matchAll(/^(?:import|export)\b(?:[^'";]*\bfrom)?\s*['"]([^'"\n]+)['"]/gm);
  const loads = text.replace(/^\s*(\/\/|\/?\*).*$/gm, '').matchAll(/\bimport\(\s*['"]([^'"\n]+)['"]/g);
  return [...statements, ...loads].flatMap((match) => match[1] ?? []);
}
