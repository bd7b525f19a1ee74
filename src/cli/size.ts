/** Sizes and spans of time as people write them. */
import { usage } from './failure.ts';

const POWERS: Readonly<Record<string, number>> = { '': 0, k: 1, m: 2, g: 3, t: 4, p: 5 };
const SIZE = /^(\d+(?:\.\d+)?)\s?(?:([kmgtp])i?b?|b)?$/i;
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };
const DURATION = /^(?:\d+(?:\.\d+)?[smhd])+$/;

/** Bytes of "64Mi", "64M", "512m", "1Gi", "1.5g", "1048576": every unit is a power of 1024, as in `docker run -m`. */
export function parseSize(flag: string, text: string): number {
  const match = SIZE.exec(text);
  const power = POWERS[match?.[2]?.toLowerCase() ?? ''] ?? 0;
  const bytes = match === null ? Number.NaN : Math.floor(Number(match[1]) * 1024 ** power);
  const fraction = power === 0 && match?.[1]?.includes('.') === true;
  if (!Number.isSafeInteger(bytes) || bytes <= 0 || fraction) {
    throw usage(flag, `${JSON.stringify(text)} is no size: say 64Mi, 512m or 1Gi (units are powers of 1024)`);
  }
  return bytes;
}

/** Bytes for people: "64 MiB", "1.5 GiB". */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number(value.toFixed(value < 10 ? 1 : 0))} ${UNITS[unit] ?? ''}`;
}

/** Milliseconds of "90s", "10m", "1h30m"; undefined when the text is no span of time. */
export function parseDuration(text: string): number | undefined {
  if (!DURATION.test(text)) return undefined;
  const parts = text.matchAll(/(\d+(?:\.\d+)?)([smhd])/g);
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * (SECONDS[unit ?? ''] ?? 0) * 1000, 0);
}

/** A span of time for people, in its largest unit: "5 minutes". */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const steps: [number, string][] = [
    [86_400, 'day'],
    [3600, 'hour'],
    [60, 'minute'],
  ];
  const [size, unit] = steps.find(([step]) => seconds >= step) ?? [1, 'second'];
  const count = Math.floor(seconds / size);
  return `${count} ${unit}${count === 1 ? '' : 's'}`;
}
