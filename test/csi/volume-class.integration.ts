/** Volume classes of the real daemon through the real command line, with a fake plugin. */
import assert from 'node:assert/strict';
import { mkdir, unlink, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { startFakeCsi } from '../support/fake-csi.ts';
import { needs } from '../support/needs.ts';

const NAME = 'fake.csi.test';
const MIB = 1024 * 1024;

interface Shown {
  readonly name: string;
  readonly class: string | null;
  readonly driver: string;
  readonly capacityBytes: number;
  readonly mutableParameters: Readonly<Record<string, string>>;
}

async function inspect(daemon: Daemon, name: string): Promise<Shown> {
  const [volume] = JSON.parse(await daemon.ok(['volume', 'inspect', name]));
  return volume;
}

async function refused(daemon: Daemon, args: readonly string[], reason: RegExp): Promise<void> {
  const { code, stderr } = await daemon.cli(args);
  assert.equal(code, 1, stderr);
  assert.match(stderr, reason);
}

test('volume classes', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t);
  const { dir } = daemon;
  const socketPath = `${daemon.run}/csi/fake.sock`;
  const controller = ['CREATE_DELETE_VOLUME', 'MODIFY_VOLUME'];
  const plugin = await startFakeCsi(t, { socketPath, backingDir: `${dir}/backing`, controller });
  const write = (name: string, text: string): Promise<void> => writeFile(`${dir}/volumes.d/${name}.toml`, text);

  await t.test('are taken at once, and a volume keeps what its class said when it was made', async () => {
    await write(
      'fast',
      `driver = "${NAME}"\nsize = "16Mi"\n[parameters]\ntier = "ssd"\n[mutable-parameters]\niops = "7"\n`,
    );
    await daemon.ok(['volume', 'create', 'data', '--class', 'fast', '--parameter', 'more=x']);
    const [sent] = plugin.requests('CreateVolume');
    assert.deepEqual(sent?.['parameters'], { tier: 'ssd', more: 'x' });
    assert.deepEqual(sent?.['mutableParameters'], { iops: '7' });
    assert.equal(sent?.['capacityRange'].requiredBytes, String(16 * MIB));
    await write('fast', `driver = "${NAME}"\nsize = "32Mi"\n`);
    await daemon.restart();
    const shown = await inspect(daemon, 'data');
    assert.deepEqual(
      [shown.class, shown.driver, shown.capacityBytes, shown.mutableParameters],
      ['fast', NAME, 16 * MIB, { iops: '7' }],
    );
    await daemon.ok(['volume', 'create', 'data', '--class', 'fast', '--parameter', 'more=x']);
    assert.equal(plugin.requests('CreateVolume').length, 1);
    await daemon.ok(['volume', 'create', 'later', '--class', 'fast', '--size', '8Mi']);
    assert.deepEqual(plugin.requests('CreateVolume')[1]?.['parameters'], {});
    assert.equal((await inspect(daemon, 'later')).capacityBytes, 8 * MIB);
  });

  await t.test('have secrets of their own, by reference', async () => {
    await write('safe', `driver = "${NAME}"\nsize = "8Mi"\nsecrets = "safe"\n`);
    await refused(daemon, ['volume', 'create', 'locked', '--class', 'safe'], /secrets of CreateVolume .*safe\.toml/);
    await mkdir(`${dir}/csi.d/secrets`, { mode: 0o700 });
    await writeFile(`${dir}/key`, 'hunter2\n', { mode: 0o600 });
    const reference = `[default.keys]\npassword = { file = "${dir}/key" }\n`;
    await writeFile(`${dir}/csi.d/secrets/safe.toml`, reference, { mode: 0o600 });
    await daemon.ok(['volume', 'create', 'locked', '--class', 'safe']);
    assert.deepEqual(plugin.requests('CreateVolume').at(-1)?.['secrets'], { password: 'hunter2' });
    await daemon.ok(['volume', 'rm', 'locked']);
    assert.deepEqual(plugin.requests('DeleteVolume').at(-1)?.['secrets'], { password: 'hunter2' });
    assert.ok(!JSON.stringify(daemon.lines).includes('hunter2'));
  });

  await t.test('keep the data when they say retain', async () => {
    await write('kept', `driver = "${NAME}"\nsize = "8Mi"\nreclaim = "retain"\n`);
    await daemon.ok(['volume', 'create', 'kept', '--class', 'kept']);
    const deletions = plugin.requests('DeleteVolume').length;
    await daemon.ok(['volume', 'rm', 'kept']);
    assert.equal(plugin.requests('DeleteVolume').length, deletions);
  });

  await t.test('that are not understood hide no others, are listed with the reason, and make no volumes', async () => {
    await write('broken', `driver = "${NAME}"\nreclaim = "perhaps"\n`);
    const rows: { name: string; reason: string; driver?: string }[] = JSON.parse(
      await daemon.ok(['volume', 'class', 'ls', '--format', 'json']),
    );
    assert.deepEqual(
      rows.map(({ name, driver }) => [name, driver]),
      [
        ['broken', undefined],
        ['fast', NAME],
        ['kept', NAME],
        ['safe', NAME],
      ],
    );
    assert.match(rows[0]?.reason ?? '', /^reclaim: /);
    assert.match(await daemon.ok(['volume', 'class', 'ls']), /broken +- +- .*broken\.toml +reclaim: /);
    const [fast] = JSON.parse(await daemon.ok(['volume', 'class', 'inspect', 'fast']));
    assert.deepEqual([fast.sizeBytes, fast.default, fast.reclaim], [32 * MIB, false, null]);
    await refused(
      daemon,
      ['volume', 'create', 'x', '--class', 'broken'],
      /volume class broken: .*broken\.toml: reclaim: /,
    );
    await refused(
      daemon,
      ['volume', 'create', 'x', '--class', 'none'],
      /no such volume class: none; .* has fast, kept, safe/,
    );
    await refused(daemon, ['volume', 'class', 'inspect', 'none'], /no such volume class/);
    const doctor: { name: string; detail: string; remedy: string }[] = JSON.parse(
      await daemon.ok(['doctor', '--format', 'json']),
    );
    const line = doctor.find(({ name }) => name.endsWith('/broken.toml'));
    assert.match(line?.detail ?? '', /reclaim: /);
    assert.match(line?.remedy ?? '', /^mend /);
    assert.equal(daemon.lines.filter(({ msg }) => msg === 'volume class is not understood').length, 1);
    await unlink(`${dir}/volumes.d/broken.toml`);
  });

  await t.test(
    'one of them is the default for requests that name no class, driver and source; two are none',
    async () => {
      await refused(
        daemon,
        ['volume', 'create', 'plain'],
        /size: is missing: say one \(--size 10Gi\), or name a class/,
      );
      // Whoever meant this one does not want another driver's volume.
      await write('unsure', `driver = "${NAME}"\nsize = "8Mi"\ndefault = true\nnonsense = 1\n`);
      await refused(
        daemon,
        ['volume', 'create', 'x', '--size', '8Mi'],
        /class: .*unsure\.toml is not understood \(nonsense: .*may be the default class: mend it/,
      );
      assert.match(
        await daemon.ok(['doctor']),
        /unsure\.toml +this volume class cannot be used, and no volume is made/,
      );
      await unlink(`${dir}/volumes.d/unsure.toml`);
      await write('standard', `driver = "${NAME}"\nsize = "8Mi"\ndefault = true\n`);
      await daemon.ok(['volume', 'create', 'plain']);
      assert.equal((await inspect(daemon, 'plain')).class, 'standard');
      await daemon.ok(['volume', 'create', 'own', '--size', '16Mi', '--driver', 'local.csi.berth']);
      assert.equal((await inspect(daemon, 'own')).class, null);
      await refused(
        daemon,
        ['volume', 'create', 'x', '--class', 'standard', '--driver', 'local.csi.berth'],
        /driver: class/,
      );
      await write('another', `driver = "${NAME}"\nsize = "8Mi"\ndefault = true\n`);
      await refused(daemon, ['volume', 'create', 'x'], /classes another and standard both say default = true/);
      assert.match(await daemon.ok(['doctor']), /default volume class +classes another and standard/);
      await daemon.ok(['volume', 'create', 'plain']);
      await daemon.ok(['volume', 'create', 'named', '--class', 'another']);
      await daemon.ok(['volume', 'rm', 'named', 'own', 'plain']);
    },
  );

  await t.test('with parameters that can be changed are refused by a plugin that has none', async (st) => {
    const plain = 'plain.csi.test';
    const place = { socketPath: `${daemon.run}/csi/plain.sock`, backingDir: `${dir}/plain` };
    const other = await startFakeCsi(st, { ...place, name: plain, controller: ['CREATE_DELETE_VOLUME'] });
    await write('fixed', `driver = "${plain}"\nsize = "8Mi"\n[mutable-parameters]\niops = "1"\n`);
    await refused(
      daemon,
      ['volume', 'create', 'l', '--class', 'fixed'],
      /mutableParameters: CSI plugin plain\.csi\.test has none/,
    );
    assert.equal(other.requests('CreateVolume').length, 0);
    await daemon.ok(['volume', 'create', 'l', '--driver', plain, '--size', '8Mi']);
    assert.deepEqual(other.requests('CreateVolume')[0]?.['mutableParameters'], {});
    await daemon.ok(['volume', 'rm', 'l']);
  });

  await daemon.ok(['volume', 'rm', 'data', 'later']);
  assert.deepEqual(plugin.violations, []);
});
