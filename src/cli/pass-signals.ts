/** Signals of this process handed to somebody else for as long as it matters. */

/** What a terminal, a shell or a service manager sends to a program that should end, reload or report. */
export const PASSED_ON = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2', 'SIGALRM'] as const;

/** Hands signals on until the result is disposed of. From then on they do what they do to any program. */
export function passSignals(receive: (signal: NodeJS.Signals) => void): Disposable {
  for (const signal of PASSED_ON) process.on(signal, receive);
  return {
    [Symbol.dispose]: () => {
      for (const signal of PASSED_ON) process.off(signal, receive);
    },
  };
}
