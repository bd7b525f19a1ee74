/** Calls to a driver that is killed while it serves them, and their repetition. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Driver, Message } from './driver.ts';

/** Sends a call, kills the driver at a moment, starts it again. */
export async function killDuring(driver: Driver, moment: number, rpc: string, request: Message): Promise<void> {
  // Whether it is answered depends on the moment.
  const answer = driver.codeOf(rpc, request);
  await sleep(moment);
  await driver.restart('SIGKILL');
  assert.match(await answer, /^(OK|UNAVAILABLE|CANCELLED)$/);
}

/** As an orchestrator does: repeats a call for as long as that is what the answer asks for. */
export async function repeated(driver: Driver, rpc: string, request: Message): Promise<Message> {
  for (let attempt = 0; ; attempt += 1) {
    const code = await driver.codeOf(rpc, request);
    if (code === 'OK') return driver.call(rpc, request);
    assert.ok(['ABORTED', 'UNAVAILABLE'].includes(code) && attempt < 100, `${rpc} answers ${code}\n${driver.stderr}`);
    await sleep(20);
  }
}
