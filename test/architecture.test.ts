/** The shape of the repository: what docs/architecture.md and CONTRIBUTING.md say about it is so. */
import assert from 'node:assert/strict';
import { accessSync, constants, existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import test, { describe } from 'node:test';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { CODES } from '../src/errors.ts';
import {
  badNames,
  imports,
  importViolations,
  longModules,
  MAX_LINES,
  missingHeads,
  type SourceTree,
  undeclaredPackages,
  unprefixedBuiltins,
  unresolvedImports,
  unsafeRemovals,
} from './support/architecture-rules.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

function text(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

function tree(...patterns: readonly string[]): SourceTree {
  const paths = patterns.flatMap((pattern) => globSync(pattern, { cwd: ROOT }));
  const written = paths.filter((path) => !path.includes('/generated/')).sort();
  return new Map(written.map((path) => [path, text(path)]));
}

const SRC: SourceTree = tree('src/**/*.ts');
const ALL: SourceTree = tree('src/**/*.ts', 'test/**/*.ts', 'scripts/**/*.ts');

const manifest = z
  .object({
    scripts: z.record(z.string(), z.string()),
    dependencies: z.record(z.string(), z.string()),
    devDependencies: z.record(z.string(), z.string()),
    optionalDependencies: z.record(z.string(), z.string()),
  })
  .parse(JSON.parse(text('package.json')));

describe('source tree', () => {
  test('imports go the way the architecture says', () => {
    assert.deepEqual(importViolations(SRC), []);
  });

  test('every relative import names a file', () => {
    assert.deepEqual(
      unresolvedImports(ALL, (path) => existsSync(join(ROOT, path))),
      [],
    );
  });

  test('every package that is imported is named in package.json', () => {
    const runtime = new Set(Object.keys(manifest.dependencies));
    const all = new Set([...runtime, ...Object.keys(manifest.devDependencies)]);
    assert.deepEqual(
      undeclaredPackages(ALL, (path) => (path.startsWith('src/') ? runtime : all)),
      [],
    );
    assert.deepEqual(unprefixedBuiltins(ALL), []);
  });

  test('every package that programs are shipped with is used by them', () => {
    const used = [...SRC.values()].flatMap(imports);
    const idle = Object.keys(manifest.dependencies).filter((name) => !used.some((path) => isOf(path, name)));
    assert.deepEqual(idle, []);
  });

  test(`no module is longer than ${MAX_LINES} lines`, () => {
    assert.deepEqual(longModules(SRC), []);
  });

  test('names say what is inside', () => {
    assert.deepEqual(badNames(ALL), []);
  });

  test('every module opens with what it is for', () => {
    assert.deepEqual(missingHeads(SRC), []);
  });
});

function isOf(specifier: string, name: string): boolean {
  return specifier === name || specifier.startsWith(`${name}/`);
}

/** Every document, with code it shows. */
const DOCUMENTS: readonly string[] = globSync(['*.md', 'docs/**/*.md'], { cwd: ROOT }).sort();

test('nothing removes trees in a way that follows links', () => {
  assert.deepEqual(unsafeRemovals(SRC), []);
  const planted = new Map([['src/a.ts', "import { mkdir, rm } from 'node:fs/promises';"]]);
  assert.equal(unsafeRemovals(planted).length, 1);
});

describe('documents', () => {
  test('programs they name are there and can be run', () => {
    const named = DOCUMENTS.flatMap((path) =>
      [...text(path).matchAll(/(?<![\w./-])((?:scripts|bin)\/[\w./-]*\w|\.ci\/run)/g)].map((match) => match[1] ?? ''),
    );
    assert.ok(named.includes('scripts/quickstart.sh') && named.includes('scripts/test.sh'));
    const absent = [...new Set(named)].filter((path) => !isThere(path));
    assert.deepEqual(absent, []);
  });

  test('npm scripts they name are there', () => {
    const named = DOCUMENTS.flatMap((path) =>
      [...text(path).matchAll(/\bnpm run ([\w:-]+)/g)].map((match) => match[1] ?? ''),
    );
    assert.deepEqual(
      named.filter((name) => manifest.scripts[name] === undefined),
      [],
    );
  });

  test('links and source paths lead somewhere', () => {
    const dead = DOCUMENTS.flatMap((path) => {
      const links = [...text(path).matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)].map((match) => match[1] ?? '');
      const sources = [...text(path).matchAll(/`((?:src|test)\/[\w./-]+)`/g)].map((match) => match[1] ?? '');
      return [
        ...links.filter((link) => !existsSync(join(ROOT, dirname(path), link))).map((link) => `${path}: ${link}`),
        ...sources.filter((source) => !existsSync(join(ROOT, source))).map((source) => `${path}: ${source}`),
      ];
    });
    assert.deepEqual(dead, []);
  });

  test('the README gives a reason for every package', () => {
    const readme = text('README.md');
    const names = [...Object.keys(manifest.dependencies), ...Object.keys(manifest.optionalDependencies)];
    assert.deepEqual(
      names.filter((name) => !readme.includes(`\`${name}\``)),
      [],
    );
  });

  test('every error code is explained', () => {
    const all = DOCUMENTS.map(text).join('\n');
    assert.deepEqual(
      CODES.filter((code) => !all.includes(`\`${code}\``)),
      [],
    );
  });
});

/** A file that can be run, or a TypeScript file or a directory. */
function isThere(path: string): boolean {
  if (!existsSync(join(ROOT, path))) return false;
  if (!/\.sh$|^bin\/|^\.ci\//.test(path)) return true;
  accessSync(join(ROOT, path), constants.X_OK);
  return true;
}

describe('rules', () => {
  const planted = (files: Readonly<Record<string, string>>): SourceTree => new Map(Object.entries(files));

  test('an import that goes the wrong way is found', () => {
    const wrong: readonly (readonly [string, string])[] = [
      ['src/errors.ts', "import { x } from './cni/protocol.ts';"],
      ['src/runtime/oci-spec.ts', "import { x } from '../csi/volume.ts';"],
      ['src/runtime/isolators/a.ts', "export { x } from '../../image/provisioner.ts';"],
      ['src/cni/netns.ts', "import type { X } from '../runtime/containerizer.ts';"],
      ['src/cni/netns.ts', "import { x } from '../csi/plugin.ts';"],
      ['src/csi/volume-manager.ts', `const driver = await ${'import'}('./local/driver.ts');`],
      ['src/csi/local/driver.ts', "import { x } from '../plugin-registry.ts';"],
      ['src/daemon.ts', "import { x } from './csi/local/driver.ts';"],
      ['src/image/unpack.ts', "import '../cni/network.ts';"],
      ['src/cli/run.ts', "import { x } from '../errors.ts';"],
      ['src/api/server.ts', "import { x } from '../main.ts';"],
      ['src/scheduler/scheduler.ts', 'export {};'],
    ];
    for (const [path, code] of wrong) assert.equal(importViolations(planted({ [path]: code })).length, 1, path);
  });

  test('an import that goes the right way is not', () => {
    const right = planted({
      'src/main.ts': "import { a } from './cli/run.ts';\nimport { b } from './errors.ts';",
      'src/cni/netns.ts': "import { a } from '../errors.ts';\nimport type { B } from '../runtime/isolator.ts';",
      'src/csi/local/driver.ts': "import { a } from './images.ts';\nimport { b } from '../protocol.ts';",
      'src/cli/run.ts': "import type { A } from '../api/generated/berth.ts';\nimport { b } from './output.ts';",
      'src/api/containers.ts': "import { a } from '../runtime/containerizer.ts';\n// from '../cli/run.ts'",
    });
    assert.deepEqual(importViolations(right), []);
  });

  test('a package nobody declared is found', () => {
    const code = planted({ 'src/a.ts': "import x from 'left-pad/x';\nimport y from '@a/b/c';\nimport 'node:fs';" });
    assert.equal(undeclaredPackages(code, () => new Set(['@a/b'])).length, 1);
    assert.equal(unprefixedBuiltins(planted({ 'src/a.ts': "import { x } from 'fs';" })).length, 1);
  });

  test('a long module and a bad name are found', () => {
    assert.deepEqual(longModules(planted({ 'src/a.ts': 'x\n'.repeat(MAX_LINES) })), []);
    assert.equal(longModules(planted({ 'src/a.ts': 'x\n'.repeat(MAX_LINES + 1) })).length, 1);
    const names = [
      'src/index.ts',
      'src/cni/types.ts',
      'src/csi/string-utils.ts',
      'src/Cni/x.ts',
      'test/fooBar.test.ts',
    ];
    for (const name of names) assert.equal(badNames(planted({ [name]: '' })).length, 1, name);
    assert.deepEqual(badNames(planted({ 'src/runtime/oci-spec.ts': '', 'test/kernel.test.ts': '' })), []);
  });

  test('a module without a head is found', () => {
    assert.equal(missingHeads(planted({ 'src/a.ts': "import 'node:fs';" })).length, 1);
    assert.deepEqual(missingHeads(planted({ 'src/a.ts': '#!/usr/bin/env node\n/** What it is. */' })), []);
  });
});
