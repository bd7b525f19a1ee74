import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ImageConfig } from '../../src/image/image-config.ts';
import { accountOf, argumentsOf, environmentOf, workingDirOf } from '../../src/image/process-settings.ts';
import { containerSpec } from '../support/container-spec.ts';

const image = (change: Partial<ImageConfig> = {}): ImageConfig => ({
  entrypoint: ['/entry'],
  command: ['default'],
  env: [],
  labels: {},
  ...change,
});

describe('argumentsOf', () => {
  test('follows the image when the request says nothing', () => {
    assert.deepEqual(argumentsOf(image(), containerSpec({ command: [] })), ['/entry', 'default']);
  });

  test("the request's command replaces the image's command only", () => {
    assert.deepEqual(argumentsOf(image(), containerSpec({ command: ['x', 'y'] })), ['/entry', 'x', 'y']);
  });

  test("the request's entrypoint replaces both", () => {
    assert.deepEqual(argumentsOf(image(), containerSpec({ entrypoint: ['sh'], command: [] })), ['sh']);
    assert.deepEqual(argumentsOf(image(), containerSpec({ entrypoint: ['sh'], command: ['-c'] })), ['sh', '-c']);
    assert.deepEqual(argumentsOf(image(), containerSpec({ entrypoint: [], command: ['ls'] })), ['ls']);
  });

  test('refuses when nobody says what to run', () => {
    const failure = { code: 'FAILED_PRECONDITION' };
    assert.throws(() => argumentsOf(image({ entrypoint: [], command: [] }), containerSpec({ command: [] })), failure);
    assert.throws(() => argumentsOf(image(), containerSpec({ entrypoint: [], command: [] })), failure);
  });
});

describe('environmentOf', () => {
  const container = (env: readonly string[]) => ({
    id: 'a'.repeat(32),
    spec: containerSpec({ env }),
    createdAt: new Date(0).toISOString(),
    provisional: false,
    cleanupFailures: [],
  });

  test("has each key once; the request wins over the image, the image over Berth's defaults", () => {
    const env = environmentOf(
      image({ env: ['PATH=/image', 'A=image', 'B=image'] }),
      container(['B=x=y', 'C=']),
      '/home',
    );
    assert.deepEqual(env, ['PATH=/image', `HOSTNAME=${'a'.repeat(12)}`, 'HOME=/home', 'A=image', 'B=x=y', 'C=']);
  });

  test('lets the request name its own home', () => {
    assert.ok(environmentOf(image(), container(['HOME=/elsewhere']), '/root').includes('HOME=/elsewhere'));
  });
});

describe('accountOf and workingDirOf', () => {
  test('take the request, then the image, then root', () => {
    assert.deepEqual(accountOf(image({ user: 'app' }), containerSpec({ user: '7' })), { user: 7 });
    assert.deepEqual(accountOf(image({ user: 'app' }), containerSpec()), { user: 'app' });
    assert.deepEqual(accountOf(image(), containerSpec()), { user: 0 });
    assert.equal(workingDirOf(image({ workingDir: '/image' }), containerSpec({ workingDir: '/request' })), '/request');
    assert.equal(workingDirOf(image({ workingDir: '/image' }), containerSpec()), '/image');
    assert.equal(workingDirOf(image(), containerSpec()), '/');
  });
});
