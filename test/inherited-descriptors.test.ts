import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, test } from 'node:test';

const MODULE = new URL('../src/inherited-descriptors.ts', import.meta.url).href;

describe('closeInheritedDescriptors', () => {
  test('closes what the parent left open, so that no child gets it', () => {
    const script = (close: boolean): string => `
      import { closeInheritedDescriptors } from '${MODULE}';
      import { spawnSync } from 'node:child_process';
      ${close ? 'closeInheritedDescriptors();' : ''}
      process.stdout.write(spawnSync('ls', ['/proc/self/fd'], { encoding: 'utf8' }).stdout);`;
    const shown = (close: boolean): string[] => {
      // A number as high as 60: the lowest ones are looked after by the runtime's own start.
      const args = ['-c', 'exec 60</etc/passwd; exec "$0" "$@"', process.execPath];
      const flags = ['--input-type=module-typescript', '--eval', script(close)];
      return spawnSync('bash', [...args, ...flags], { encoding: 'utf8' })
        .stdout.trim()
        .split('\n');
    };
    assert.ok(shown(false).includes('60'), 'the descriptor reaches a child unless it is closed');
    assert.deepEqual(shown(true), ['0', '1', '2', '3'], 'ls itself opens the directory as 3');
  });
});
