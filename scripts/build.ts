/**
 * Bundles the programs into dist/: `node scripts/build.ts`. A program of a few files starts in half the time of one of
 * three hundred, which most commands and every restart of the daemon would wait for. Code that several programs use lies
 * in dist/parts. Nothing is minified: a stack trace names what the source names.
 */
import { build } from 'esbuild';

/** What is started as a process or a thread, or loaded by name. */
const PROGRAMS = [
  'main',
  'berthd',
  'cli/main',
  'cli/program',
  'cli/session',
  'csi/local/main',
  'spawner-process',
  'system-calls-thread',
  'group-ownership-process',
];

await build({
  entryPoints: PROGRAMS.map((program) => `src/${program}.ts`),
  outdir: 'dist',
  outbase: 'src',
  chunkNames: 'parts/[name]-[hash]',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node24',
  sourcemap: true,
  legalComments: 'none',
  logLevel: 'warning',
  // Packages written for CommonJS ask for Node's own modules by require.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
});
