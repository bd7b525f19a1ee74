/**
 * What csi-sanity (kubernetes-csi/csi-test) asks of a driver, for the capabilities this one has: the driver runs, the
 * calls go over its socket.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { cleanup } from '../../support/cleanup.ts';
import { missing } from '../../support/needs.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { blockOf, Driver, type Message, MIB, mountOf } from './driver.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4');
const UNKNOWN_ID = 'reallyfakevolumeid';

for (const access of ['mount', 'block'] as const) {
  const capability = (mode?: string): Message => (access === 'mount' ? mountOf(mode) : blockOf(mode));

  describe(`local.csi.berth for ${access} access`, { skip }, () => {
    let driver: Driver;
    /** A volume that stays through the tests of refusals. */
    let volumeId: string;
    let paths: Message;

    const scope = { after };
    // A hook that is registered inside `before` would run when that ends.
    cleanup(scope, () => undefined);
    before(async () => {
      driver = new Driver(await tempDir(scope));
      cleanup(scope, () => driver.dispose());
      await driver.start();
      volumeId = await driver.createVolume('standing', { volumeCapabilities: [capability()] });
      paths = await driver.paths('standing');
    });

    /** RPC, what is odd about the request, the request, the expected status. */
    const refusals: readonly [string, string, () => Message, string][] = [
      ['CreateVolume', 'no name', () => ({ volumeCapabilities: [capability()] }), 'INVALID_ARGUMENT'],
      ['CreateVolume', 'no capabilities', () => ({ name: 'x' }), 'INVALID_ARGUMENT'],
      [
        'CreateVolume',
        'a capability without mode',
        () => create({ volumeCapabilities: [{ block: {} }] }),
        'INVALID_ARGUMENT',
      ],
      [
        'CreateVolume',
        'a capability without type',
        () => create({ volumeCapabilities: [{ accessMode: { mode: 'SINGLE_NODE_WRITER' } }] }),
        'INVALID_ARGUMENT',
      ],
      [
        'CreateVolume',
        'a multi node mode',
        () => create({ volumeCapabilities: [capability('MULTI_NODE_MULTI_WRITER')] }),
        'INVALID_ARGUMENT',
      ],
      ['CreateVolume', 'a name of 129 bytes', () => create({ name: 'n'.repeat(129) }), 'INVALID_ARGUMENT'],
      ['CreateVolume', 'a control character in the name', () => create({ name: 'a\u0001b' }), 'INVALID_ARGUMENT'],
      ['CreateVolume', 'an unknown parameter', () => create({ parameters: { colour: 'red' } }), 'INVALID_ARGUMENT'],
      ['CreateVolume', 'an unknown type', () => create({ parameters: { type: 'tape' } }), 'INVALID_ARGUMENT'],
      [
        'CreateVolume',
        'an unknown file system',
        () => create({ parameters: { fsType: '../../ext4' } }),
        'INVALID_ARGUMENT',
      ],
      ['CreateVolume', 'a negative size', () => create({ capacityRange: { requiredBytes: '-1' } }), 'INVALID_ARGUMENT'],
      [
        'CreateVolume',
        'a limit below the requirement',
        () => create({ capacityRange: { requiredBytes: '2', limitBytes: '1' } }),
        'INVALID_ARGUMENT',
      ],
      [
        'CreateVolume',
        'a size no volume can have',
        () => create({ capacityRange: { requiredBytes: '5001', limitBytes: '5002' } }),
        'OUT_OF_RANGE',
      ],
      [
        'CreateVolume',
        'the largest size there is',
        () => create({ capacityRange: { requiredBytes: '9223372036854775807' } }),
        'OUT_OF_RANGE',
      ],
      [
        'CreateVolume',
        'a size beyond the disk',
        () => create({ capacityRange: { requiredBytes: String(15 * 1024 ** 4) } }),
        'RESOURCE_EXHAUSTED',
      ],
      [
        'CreateVolume',
        'an unknown source volume',
        () => create({ volumeContentSource: { volume: { volumeId: UNKNOWN_ID } } }),
        'NOT_FOUND',
      ],
      [
        'CreateVolume',
        'an unknown source snapshot',
        () => create({ volumeContentSource: { snapshot: { snapshotId: UNKNOWN_ID } } }),
        'NOT_FOUND',
      ],
      [
        'CreateVolume',
        'a source without an id',
        () => create({ volumeContentSource: { snapshot: { snapshotId: '' } } }),
        'INVALID_ARGUMENT',
      ],
      [
        'CreateVolume',
        'a source of the other access type',
        () =>
          create({
            capacityRange: null,
            volumeCapabilities: [access === 'mount' ? blockOf() : mountOf()],
            volumeContentSource: { volume: { volumeId } },
          }),
        'INVALID_ARGUMENT',
      ],
      [
        'CreateVolume',
        'a source that is larger than the limit',
        () =>
          create({
            capacityRange: { limitBytes: String(8 * MIB) },
            volumeContentSource: { volume: { volumeId } },
          }),
        'OUT_OF_RANGE',
      ],
      [
        'CreateVolume',
        'a mount flag that chooses the device',
        () => create({ volumeCapabilities: [mountOf('SINGLE_NODE_WRITER', { mountFlags: ['offset=512'] })] }),
        'INVALID_ARGUMENT',
      ],
      [
        'CreateVolume',
        'two options in one mount flag',
        () => create({ volumeCapabilities: [mountOf('SINGLE_NODE_WRITER', { mountFlags: ['ro,suid'] })] }),
        'INVALID_ARGUMENT',
      ],
      ['DeleteVolume', 'no id', () => ({}), 'INVALID_ARGUMENT'],
      ['DeleteVolume', 'an unknown id', () => ({ volumeId: UNKNOWN_ID }), 'OK'],
      ['DeleteVolume', 'an id that is a path', () => ({ volumeId: '../../..' }), 'OK'],
      ['ListVolumes', 'an invalid token', () => ({ startingToken: 'invalid-token' }), 'ABORTED'],
      ['ListVolumes', 'a negative number', () => ({ maxEntries: -1 }), 'INVALID_ARGUMENT'],
      ['ValidateVolumeCapabilities', 'no id', () => ({ volumeCapabilities: [capability()] }), 'INVALID_ARGUMENT'],
      ['ValidateVolumeCapabilities', 'no capabilities', () => ({ volumeId }), 'INVALID_ARGUMENT'],
      [
        'ValidateVolumeCapabilities',
        'an unknown volume',
        () => ({ volumeId: UNKNOWN_ID, volumeCapabilities: [capability()] }),
        'NOT_FOUND',
      ],
      ['NodeStageVolume', 'no id', () => staged({ volumeId: '' }), 'INVALID_ARGUMENT'],
      ['NodeStageVolume', 'no staging path', () => staged({ stagingTargetPath: '' }), 'INVALID_ARGUMENT'],
      ['NodeStageVolume', 'a relative path', () => staged({ stagingTargetPath: 'a/b' }), 'INVALID_ARGUMENT'],
      [
        'NodeStageVolume',
        'a path with ..',
        () => staged({ stagingTargetPath: `${driver.dir}/a/../b` }),
        'INVALID_ARGUMENT',
      ],
      ['NodeStageVolume', 'the root directory', () => staged({ stagingTargetPath: '/' }), 'INVALID_ARGUMENT'],
      [
        'NodeStageVolume',
        'a path that is not there',
        () => staged({ stagingTargetPath: `${driver.dir}/none` }),
        'FAILED_PRECONDITION',
      ],
      ['NodeStageVolume', 'no capability', () => staged({ volumeCapability: null }), 'INVALID_ARGUMENT'],
      [
        'NodeStageVolume',
        'the other access type',
        () => staged({ volumeCapability: access === 'mount' ? blockOf() : mountOf() }),
        'FAILED_PRECONDITION',
      ],
      ['NodeStageVolume', 'an unknown volume', () => staged({ volumeId: UNKNOWN_ID }), 'NOT_FOUND'],
      [
        'NodeStageVolume',
        "an id of another driver's form",
        () => staged({ volumeId: `${volumeId}/../${volumeId}` }),
        'NOT_FOUND',
      ],
      ['NodeUnstageVolume', 'no id', () => staged({ volumeId: '' }), 'INVALID_ARGUMENT'],
      ['NodeUnstageVolume', 'no staging path', () => staged({ stagingTargetPath: '' }), 'INVALID_ARGUMENT'],
      ['NodeUnstageVolume', 'a volume that is not staged', () => staged({}), 'OK'],
      ['NodePublishVolume', 'no id', () => staged({ volumeId: '' }), 'INVALID_ARGUMENT'],
      ['NodePublishVolume', 'no target path', () => staged({ targetPath: '' }), 'INVALID_ARGUMENT'],
      ['NodePublishVolume', 'no capability', () => staged({ volumeCapability: null }), 'INVALID_ARGUMENT'],
      ['NodePublishVolume', 'no staging path', () => staged({ stagingTargetPath: '' }), 'FAILED_PRECONDITION'],
      ['NodePublishVolume', 'a volume that is not staged', () => staged({}), 'FAILED_PRECONDITION'],
      ['NodePublishVolume', 'an unknown volume', () => staged({ volumeId: UNKNOWN_ID }), 'NOT_FOUND'],
      ['NodeUnpublishVolume', 'no id', () => staged({ volumeId: '' }), 'INVALID_ARGUMENT'],
      ['NodeUnpublishVolume', 'no target path', () => staged({ targetPath: '' }), 'INVALID_ARGUMENT'],
      ['NodeUnpublishVolume', 'a volume that is not published', () => staged({}), 'OK'],
      ['NodeGetVolumeStats', 'no id', () => ({ volumePath: '/some/path' }), 'INVALID_ARGUMENT'],
      ['NodeGetVolumeStats', 'no path', () => ({ volumeId }), 'INVALID_ARGUMENT'],
      [
        'NodeGetVolumeStats',
        'an unknown volume',
        () => ({ volumeId: UNKNOWN_ID, volumePath: '/some/path' }),
        'NOT_FOUND',
      ],
      [
        'NodeGetVolumeStats',
        'an unknown volume at a path that is none',
        () => ({ volumeId: UNKNOWN_ID, volumePath: 'some/path' }),
        'NOT_FOUND',
      ],
      ['NodeGetVolumeStats', 'a path that is none', () => ({ volumeId, volumePath: 'some/path' }), 'NOT_FOUND'],
      [
        'NodeGetVolumeStats',
        'a path where the volume is not',
        () => ({ volumeId, volumePath: '/some/path' }),
        'NOT_FOUND',
      ],
      ['CreateSnapshot', 'no name', () => ({ sourceVolumeId: volumeId }), 'INVALID_ARGUMENT'],
      ['CreateSnapshot', 'no source', () => ({ name: 'x' }), 'INVALID_ARGUMENT'],
      ['CreateSnapshot', 'an unknown source', () => ({ name: 'x', sourceVolumeId: UNKNOWN_ID }), 'NOT_FOUND'],
      [
        'CreateSnapshot',
        'a parameter',
        () => ({ name: 'x', sourceVolumeId: volumeId, parameters: { pool: 'cold' } }),
        'INVALID_ARGUMENT',
      ],
      ['DeleteSnapshot', 'no id', () => ({}), 'INVALID_ARGUMENT'],
      ['DeleteSnapshot', 'an unknown id', () => ({ snapshotId: UNKNOWN_ID }), 'OK'],
      ['DeleteSnapshot', 'an id that is a path', () => ({ snapshotId: '../volumes' }), 'OK'],
      ['ListSnapshots', 'an invalid token', () => ({ startingToken: 'invalid-token' }), 'ABORTED'],
      ['ListSnapshots', 'a negative number', () => ({ maxEntries: -1 }), 'INVALID_ARGUMENT'],
      ['CreateVolumeGroupSnapshot', 'no name', () => ({ sourceVolumeIds: [volumeId] }), 'INVALID_ARGUMENT'],
      ['CreateVolumeGroupSnapshot', 'no volumes', () => ({ name: 'x' }), 'INVALID_ARGUMENT'],
      ['GetVolumeGroupSnapshot', 'no id', () => ({}), 'INVALID_ARGUMENT'],
      ['GetVolumeGroupSnapshot', 'an unknown id', () => ({ groupSnapshotId: UNKNOWN_ID }), 'NOT_FOUND'],
      ['DeleteVolumeGroupSnapshot', 'no id', () => ({}), 'INVALID_ARGUMENT'],
      ['DeleteVolumeGroupSnapshot', 'an unknown id', () => ({ groupSnapshotId: UNKNOWN_ID }), 'OK'],
      ['GetSnapshot', 'no id', () => ({}), 'INVALID_ARGUMENT'],
      ['GetSnapshot', 'an unknown id', () => ({ snapshotId: UNKNOWN_ID }), 'NOT_FOUND'],
      [
        'ControllerPublishVolume',
        'anything',
        () => ({ volumeId, nodeId: 'n', volumeCapability: capability() }),
        'UNIMPLEMENTED',
      ],
    ];

    const create = (request: Message): Message => ({
      name: 'refused',
      capacityRange: { requiredBytes: String(MIB) },
      volumeCapabilities: [capability()],
      ...request,
    });
    const staged = (request: Message): Message => ({ volumeId, ...paths, volumeCapability: capability(), ...request });

    for (const [rpc, what, request, code] of refusals) {
      test(`${rpc} with ${what} answers ${code}`, async () => {
        const before = await count();
        assert.equal(await driver.codeOf(rpc, request()), code);
        assert.equal(await count(), before);
        assert.deepEqual(driver.held(), []);
      });
    }

    test('names itself and its capabilities', async () => {
      const info = await driver.call('GetPluginInfo');
      assert.equal(info['name'], 'local.csi.berth');
      assert.notEqual(info['vendorVersion'], '');
      assert.deepEqual((await driver.call('Probe'))['ready'], { value: true });
      const { capabilities } = await driver.call('GetPluginCapabilities');
      assert.deepEqual(
        capabilities.map((one: Message) => one['service']?.type ?? one['volumeExpansion']?.type),
        [
          'CONTROLLER_SERVICE',
          'GROUP_CONTROLLER_SERVICE',
          'SNAPSHOT_METADATA_SERVICE',
          'VOLUME_ACCESSIBILITY_CONSTRAINTS',
          'ONLINE',
        ],
      );
      const controller = (await driver.call('ControllerGetCapabilities'))['capabilities'];
      assert.deepEqual(
        controller.map((one: Message) => one['rpc'].type),
        [
          ...['CREATE_DELETE_VOLUME', 'GET_CAPACITY', 'EXPAND_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
          ...['LIST_VOLUMES', 'LIST_VOLUMES_PUBLISHED_NODES', 'GET_VOLUME', 'VOLUME_CONDITION', 'MODIFY_VOLUME'],
          ...['CREATE_DELETE_SNAPSHOT', 'LIST_SNAPSHOTS', 'GET_SNAPSHOT', 'CLONE_VOLUME'],
        ],
      );
      const node = (await driver.call('NodeGetCapabilities'))['capabilities'];
      assert.deepEqual(
        node.map((one: Message) => one['rpc'].type),
        [
          ...['STAGE_UNSTAGE_VOLUME', 'GET_VOLUME_STATS', 'VOLUME_CONDITION', 'EXPAND_VOLUME'],
          ...['SINGLE_NODE_MULTI_WRITER', 'VOLUME_MOUNT_GROUP'],
        ],
      );
      assert.equal((await driver.call('NodeGetInfo'))['nodeId'], 'test-node');
    });

    test('CreateVolume with the name and size of a volume answers that volume', async () => {
      const again = await driver.createVolume('standing', { volumeCapabilities: [capability()] });
      assert.equal(again, volumeId);
    });

    test('CreateVolume with the name of a volume and another size, type or access answers ALREADY_EXISTS', async () => {
      const size = String(32 * MIB);
      for (const other of [
        { capacityRange: { requiredBytes: size, limitBytes: size } },
        { parameters: { type: 'directory' }, volumeCapabilities: [mountOf()] },
        { volumeCapabilities: [access === 'mount' ? blockOf() : mountOf()] },
      ]) {
        assert.equal(await driver.codeOf('CreateVolume', create({ name: 'standing', ...other })), 'ALREADY_EXISTS');
      }
    });

    test('CreateVolume takes a name of 128 characters', async () => {
      const id = await driver.createVolume('m'.repeat(128), { volumeCapabilities: [capability()] });
      await driver.call('DeleteVolume', { volumeId: id });
    });

    test('CreateVolume without a capacity makes a volume of some size', async () => {
      const answer = await driver.call('CreateVolume', { name: 'sizeless', volumeCapabilities: [capability()] });
      assert.ok(Number(answer['volume'].capacityBytes) >= MIB);
      await driver.call('DeleteVolume', { volumeId: answer['volume'].volumeId });
    });

    test('ListVolumes shows new volumes, pages, and forgets deleted ones', async () => {
      const ids = await Promise.all(
        ['one', 'two', 'three'].map((name) => driver.createVolume(name, { volumeCapabilities: [capability()] })),
      );
      const first = await driver.call('ListVolumes', { maxEntries: 2 });
      assert.equal(first['entries'].length, 2);
      // A token stays good when the volume it names is gone.
      const gone = first['entries'][1].volume.volumeId;
      if (gone !== volumeId) await driver.call('DeleteVolume', { volumeId: gone });
      const rest = await driver.call('ListVolumes', { startingToken: first['nextToken'] });
      assert.equal(rest['nextToken'], '');
      const listed = [...first['entries'], ...rest['entries']].map((entry: Message) => entry['volume'].volumeId);
      assert.deepEqual(listed.toSorted(), [volumeId, ...ids].toSorted());
      for (const id of ids) await driver.call('DeleteVolume', { volumeId: id });
      assert.equal(await count(), 1);
    });

    test('GetCapacity answers what is free, less what volumes may still claim', async () => {
      const before = Number((await driver.call('GetCapacity'))['availableCapacity']);
      const size = 1024 * MIB;
      const id = await driver.createVolume('claim', {
        capacityRange: { requiredBytes: String(size) },
        volumeCapabilities: [capability()],
      });
      const after = Number((await driver.call('GetCapacity'))['availableCapacity']);
      // Others write to the same disk meanwhile.
      assert.ok(Math.abs(before - after - size) < size / 2, `${before} - ${after}`);
      await driver.call('DeleteVolume', { volumeId: id });
    });

    test('ValidateVolumeCapabilities confirms what the volume can do and says why it cannot', async () => {
      const good = await driver.call('ValidateVolumeCapabilities', { volumeId, volumeCapabilities: [capability()] });
      assert.equal(good['confirmed'].volumeCapabilities.length, 1);
      for (const bad of [access === 'mount' ? blockOf() : mountOf(), capability('MULTI_NODE_MULTI_WRITER')]) {
        const answer = await driver.call('ValidateVolumeCapabilities', { volumeId, volumeCapabilities: [bad] });
        assert.equal(answer['confirmed'], null);
        assert.notEqual(answer['message'], '');
      }
    });

    test('the whole flow runs ten times over with each call repeated, and leaves nothing', async () => {
      const id = await driver.createVolume('flow', { volumeCapabilities: [capability()] });
      const request = { volumeId: id, ...(await driver.paths('flow')), volumeCapability: capability() };
      const target = request.targetPath;
      const calls = async (rpc: string): Promise<void> => {
        for (let time = 0; time < 3; time += 1) await driver.call(rpc, request);
      };
      for (let round = 0; round < 10; round += 1) {
        await calls('NodeStageVolume');
        await calls('NodePublishVolume');
        assert.equal(existsSync(target), true);
        const { usage } = await driver.call('NodeGetVolumeStats', { volumeId: id, volumePath: target });
        assert.equal(usage[0].unit, 'BYTES');
        assert.ok(Number(usage[0].total) > 8 * MIB);
        assert.equal(await driver.codeOf('DeleteVolume', { volumeId: id }), 'FAILED_PRECONDITION');
        assert.equal(await driver.codeOf('NodeUnstageVolume', request), 'FAILED_PRECONDITION');
        await calls('NodeUnpublishVolume');
        assert.equal(existsSync(target), false);
        assert.equal(await driver.codeOf('DeleteVolume', { volumeId: id }), 'FAILED_PRECONDITION');
        await calls('NodeUnstageVolume');
        assert.deepEqual(driver.held(), []);
      }
      await calls('DeleteVolume');
      assert.equal(await driver.codeOf('NodeStageVolume', request), 'NOT_FOUND');
    });

    const seconds: readonly [string, string][] = [
      ['SINGLE_NODE_WRITER', 'FAILED_PRECONDITION'],
      ['SINGLE_NODE_READER_ONLY', 'FAILED_PRECONDITION'],
      ['SINGLE_NODE_SINGLE_WRITER', 'FAILED_PRECONDITION'],
      ['SINGLE_NODE_MULTI_WRITER', 'OK'],
    ];
    for (const [mode, code] of seconds) {
      test(`a second target path answers ${code} in mode ${mode}`, async () => {
        const request = { volumeId, ...paths, volumeCapability: capability(mode) };
        const second = { ...request, targetPath: `${paths['targetPath']}-2` };
        await driver.call('NodeStageVolume', request);
        await driver.call('NodePublishVolume', request);
        assert.equal(await driver.codeOf('NodePublishVolume', second), code);
        for (const one of [second, request]) await driver.call('NodeUnpublishVolume', one);
        await driver.call('NodeUnstageVolume', request);
        assert.deepEqual(driver.held(), []);
      });
    }

    test('the same paths with other arguments answer ALREADY_EXISTS', async () => {
      const request = { volumeId, ...paths, volumeCapability: capability() };
      const other = { ...request, volumeCapability: capability('SINGLE_NODE_MULTI_WRITER') };
      await driver.call('NodeStageVolume', request);
      assert.equal(await driver.codeOf('NodeStageVolume', other), 'ALREADY_EXISTS');
      await driver.call('NodePublishVolume', request);
      assert.equal(await driver.codeOf('NodePublishVolume', { ...request, readonly: true }), 'ALREADY_EXISTS');
      assert.equal(await driver.codeOf('NodePublishVolume', other), 'ALREADY_EXISTS');
      await driver.call('NodeUnpublishVolume', request);
      await driver.call('NodeUnstageVolume', request);
    });

    async function count(): Promise<number> {
      return (await driver.call('ListVolumes'))['entries'].length;
    }
  });
}
