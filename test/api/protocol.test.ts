import assert from 'node:assert/strict';
import { test } from 'node:test';
import { serviceDefinitions } from '../../src/api/protocol.ts';

test('a field that is called "options" is carried like any other', () => {
  const connect = serviceDefinitions().get('Networks')?.['Connect'];
  assert.ok(connect !== undefined);
  const option = { network: '', kind: 'NETWORK_OPTION_KIND_ARGUMENT', name: 'A', value: '1' };
  const request = connect.requestDeserialize(connect.requestSerialize({ network: 'net', options: [option] }));
  assert.partialDeepStrictEqual(request, { network: 'net', options: [option] });
});
