/** Bounds of what an archive may make of itself: generous for any real image, small enough for the machine to live on. */
export interface ImageLimits {
  /** Bytes of the archive once unpacked. */
  readonly maxBytes: number;
  /** Files, directories, links and everything else that has a header. */
  readonly maxEntries: number;
  /** Bytes of one path. */
  readonly maxPathBytes: number;
  /** Unpacked size over packed size, looked at above 64 MiB. gzip gives up to 1,032. */
  readonly maxRatio: number;
}

export const DEFAULT_IMAGE_LIMITS: ImageLimits = {
  maxBytes: 32 * 1024 ** 3,
  maxEntries: 500_000,
  maxPathBytes: 4095,
  maxRatio: 200,
};
