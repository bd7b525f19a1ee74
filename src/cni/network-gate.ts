/**
 * Who may run plugins of one network at once. ADD, DEL and CHECK share the network, at most so many of them side by side
 * as the gate was told for it; GC has it alone (CNI 1.1.0 §2 "GC": no ADD or DEL meanwhile). Turns are taken in the order they
 * were asked for, so whoever waits to be alone holds back those who come later. Networks never wait for each other.
 *
 * The lanes of containers are another matter: a lane is taken first, a turn here inside it, and what runs alone takes no
 * lane, so nobody can wait in a circle.
 */

interface Waiting {
  readonly alone: boolean;
  readonly go: () => void;
}

interface NetworkState {
  readonly most: number;
  running: number;
  alone: boolean;
  readonly queue: Waiting[];
}

/** See the module's head. */
export class NetworkGate {
  readonly #most: (network: string) => number;
  readonly #networks = new Map<string, NetworkState>();

  /** @param most chains that run side by side on a network, by its name */
  constructor(most: (network: string) => number = () => Number.POSITIVE_INFINITY) {
    this.#most = most;
  }

  /** Runs `work` beside others. When `signal` aborts before its turn the work never starts and the reason is thrown. */
  share<T>(network: string, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return this.#run(network, false, work, signal);
  }

  /** Runs `work` while nothing else of the network runs. As {@link share} when `signal` aborts before its turn. */
  alone<T>(network: string, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return this.#run(network, true, work, signal);
  }

  async #run<T>(network: string, alone: boolean, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    signal.throwIfAborted();
    const state = this.#networks.get(network) ?? { most: this.#most(network), running: 0, alone: false, queue: [] };
    this.#networks.set(network, state);
    try {
      await this.#turn(state, alone, signal);
      try {
        return await work();
      } finally {
        state.running -= 1;
        state.alone = false;
        this.#admit(state);
      }
    } finally {
      const isIdle = state.running === 0 && state.queue.length === 0;
      // Somebody who came meanwhile may have a new one.
      if (isIdle && this.#networks.get(network) === state) this.#networks.delete(network);
    }
  }

  #turn(state: NetworkState, alone: boolean, signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const leave = (): void => {
      state.queue.splice(state.queue.indexOf(waiting), 1);
      this.#admit(state);
      reject(signal.reason);
    };
    const waiting: Waiting = {
      alone,
      go: () => {
        signal.removeEventListener('abort', leave);
        resolve();
      },
    };
    signal.addEventListener('abort', leave, { once: true });
    state.queue.push(waiting);
    this.#admit(state);
    return promise;
  }

  /** Lets in whoever may: from the front, until one must wait. */
  #admit(state: NetworkState): void {
    for (let [next] = state.queue; next !== undefined; [next] = state.queue) {
      const fits = next.alone ? state.running === 0 : !state.alone && state.running < state.most;
      if (!fits) return;
      state.queue.shift();
      state.running += 1;
      state.alone = next.alone;
      next.go();
    }
  }
}
