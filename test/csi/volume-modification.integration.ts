/** Parameters of volumes that are changed while they are there, over a real socket. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { failWith, hang } from '../support/fake-csi.ts';
import { hasCode, until } from './snapshot-host.ts';
import { request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const CHANGES = { controller: ['CREATE_DELETE_VOLUME', 'MODIFY_VOLUME'] };
const ID = /id-of-data/;

async function hostWithVolume(...[t]: Parameters<typeof volumeHost>): Promise<VolumeHost> {
  const host = await volumeHost(t, CHANGES);
  await host.volumes.create(request({ mutableParameters: { iops: '1' } }), soon());
  return host;
}

const sent = (host: VolumeHost): unknown[] =>
  host.plugin.requests('ControllerModifyVolume').map(({ mutableParameters }) => mutableParameters);

/** What the plugin holds for the one volume. */
const held = (host: VolumeHost): unknown => [...host.plugin.survey.modified.values()][0];

describe('VolumeManager.modify', () => {
  test('sends what changes, keeps what is not named, and repeats nothing without need', async (t) => {
    const host = await hostWithVolume(t);
    const changed = await host.volumes.modify('data', { tier: 'ssd' }, soon());
    assert.deepEqual(changed.mutableParameters, { iops: '1', tier: 'ssd' });
    assert.equal(changed.modification, undefined);
    await host.volumes.modify('data', { iops: '1' }, soon());
    assert.deepEqual(sent(host), [{ tier: 'ssd' }]);
    assert.match(String(host.plugin.requests('ControllerModifyVolume')[0]?.['volumeId']), ID);
    await host.start();
    assert.deepEqual(host.volumes.get('data').mutableParameters, { iops: '1', tier: 'ssd' });
  });

  test('what is wanted is on record before the call', async (t) => {
    const host = await hostWithVolume(t);
    const seen: unknown[] = [];
    host.plugin.onCall = (rpc) => {
      if (rpc === 'ControllerModifyVolume') seen.push(host.volumes.get('data').modification);
    };
    await host.volumes.modify('data', { iops: '2' }, soon());
    assert.deepEqual(seen, [{ parameters: { iops: '2' } }]);
  });

  test('a refusal changes nothing and is not sent again', async (t) => {
    const host = await hostWithVolume(t);
    const refusal = hasCode('INVALID_ARGUMENT', /size cannot be changed .*nothing was changed/);
    await assert.rejects(host.volumes.modify('data', { size: '5' }, soon()), refusal);
    const record = host.volumes.get('data');
    assert.deepEqual([record.mutableParameters, record.modification], [{ iops: '1' }, undefined]);
    assert.deepEqual([record.failure?.step, record.failure?.code], ['ControllerModifyVolume', 'INVALID_ARGUMENT']);
    assert.equal(host.volumes.planned('data'), undefined);
    await host.volumes.modify('data', { iops: '3' }, soon());
    assert.equal(host.volumes.get('data').failure, undefined);
    assert.equal(sent(host).length, 2);
  });

  test('a call without an outcome is repeated in the background with the same words', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.next('ControllerModifyVolume', failWith('INTERNAL', { afterEffect: true }), failWith('INTERNAL'));
    await assert.rejects(host.volumes.modify('data', { iops: '2' }, soon()), hasCode('INTERNAL'));
    assert.deepEqual(host.volumes.get('data').modification, { parameters: { iops: '2' } });
    assert.deepEqual(host.volumes.get('data').mutableParameters, { iops: '1' });
    await until(() => host.volumes.get('data').modification === undefined, 'changed');
    assert.deepEqual(host.volumes.get('data').mutableParameters, { iops: '2' });
    assert.deepEqual(sent(host), [{ iops: '2' }, { iops: '2' }, { iops: '2' }]);
  });

  test('a daemon that starts again goes on', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.next('ControllerModifyVolume', hang({ afterEffect: true }));
    const stop = new AbortController();
    const changing = host.volumes.modify('data', { iops: '2' }, stop.signal);
    await until(() => held(host) !== undefined, 'sent');
    host.keepDisk();
    stop.abort();
    await assert.rejects(changing);
    await host.die();
    await host.start();
    await host.volumes.recover(soon());
    const { mutableParameters, modification } = host.volumes.get('data');
    assert.deepEqual([mutableParameters, modification], [{ iops: '2' }, undefined]);
    assert.deepEqual(held(host), { iops: '2' });
  });

  test('a later wish is sent together with one whose outcome is not known, and wins', async (t) => {
    const host = await hostWithVolume(t);
    const failing = Array.from({ length: 30 }, () => failWith('INTERNAL'));
    host.plugin.next('ControllerModifyVolume', ...failing);
    await assert.rejects(host.volumes.modify('data', { iops: '2', tier: 'ssd' }, soon()), hasCode('INTERNAL'));
    host.plugin.heal();
    const changed = await host.volumes.modify('data', { iops: '4' }, soon());
    assert.deepEqual(changed.mutableParameters, { iops: '4', tier: 'ssd' });
    assert.deepEqual(held(host), { iops: '4', tier: 'ssd' });
  });

  test('a later wish that is refused leaves the earlier one wanted', async (t) => {
    const host = await hostWithVolume(t);
    const failing = Array.from({ length: 30 }, () => failWith('INTERNAL'));
    host.plugin.next('ControllerModifyVolume', ...failing);
    await assert.rejects(host.volumes.modify('data', { iops: '2' }, soon()), hasCode('INTERNAL'));
    host.plugin.heal();
    host.plugin.next('ControllerModifyVolume', failWith('INVALID_ARGUMENT'));
    await assert.rejects(host.volumes.modify('data', { tier: 'x' }, soon()), hasCode('INVALID_ARGUMENT'));
    await until(() => host.volumes.get('data').modification === undefined, 'changed');
    assert.deepEqual(host.volumes.get('data').mutableParameters, { iops: '2' });
  });

  test('is refused before anything is done where it cannot be', async (t) => {
    const host = await volumeHost(t, { controller: ['CREATE_DELETE_VOLUME'] });
    await host.volumes.create(request(), soon());
    const refusal = hasCode('FAILED_PRECONDITION', /does not offer MODIFY_VOLUME/);
    await assert.rejects(host.volumes.modify('data', { iops: '2' }, soon()), refusal);
    await assert.rejects(host.volumes.modify('data', {}, soon()), hasCode('INVALID_ARGUMENT', /say at least one/));
    await assert.rejects(host.volumes.modify('data', { '': 'x' }, soon()), hasCode('INVALID_ARGUMENT', /key is empty/));
    await assert.rejects(host.volumes.modify('none', { a: 'x' }, soon()), hasCode('NOT_FOUND'));
    assert.equal(host.volumes.get('data').modification, undefined);
    assert.equal(sent(host).length, 0);
    const made = host.volumes.create(request({ name: 'x', mutableParameters: { iops: '1' } }), soon());
    await assert.rejects(made, hasCode('INVALID_ARGUMENT', /^mutableParameters: .*MODIFY_VOLUME/));
  });
});
