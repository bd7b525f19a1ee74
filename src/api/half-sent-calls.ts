/**
 * Cuts calls whose request never arrives. Every request of the API is one small message that the caller sends at once;
 * a call without it would hold its memory for ever.
 */
import { ServerInterceptingCall, type ServerInterceptor, ServerListenerBuilder } from '@grpc/grpc-js';
import { STATUS_NUMBERS } from '../status.ts';

/** Ends a call with DEADLINE_EXCEEDED when its request has not arrived whole after `timeoutMs`. */
export function cutHalfSentCalls(timeoutMs: number): ServerInterceptor {
  return (_method, call) => {
    const cut = (): void => {
      const details = `the request did not arrive within ${timeoutMs} ms`;
      call.sendStatus({ code: STATUS_NUMBERS.DEADLINE_EXCEEDED, details });
    };
    const timer = setTimeout(cut, timeoutMs).unref();
    const listener = new ServerListenerBuilder()
      .withOnReceiveHalfClose((next) => {
        clearTimeout(timer);
        next();
      })
      .withOnCancel(() => clearTimeout(timer))
      .build();
    return new ServerInterceptingCall(call, {
      start: (next) => next(listener),
      sendStatus: (status, next) => {
        clearTimeout(timer);
        next(status);
      },
    });
  };
}
