/** The durable facts about an image: a reference and what it names. */
import { createHash } from 'node:crypto';
import * as z from 'zod';
import { type ImageConfig, imageConfigSchema } from './image-config.ts';

/** An image under one of its names. */
export interface ImageRecord {
  /** "sha256:" and 64 hex digits: follows from layers and configuration, so equal images have equal ids. */
  readonly id: string;
  /** Normal form, "busybox:latest". */
  readonly reference: string;
  /** Digests of layers, "sha256:...", the lowest first. */
  readonly layers: readonly string[];
  /** Bytes of all files of all layers. */
  readonly sizeBytes: number;
  readonly createdAt: string;
  readonly config: ImageConfig;
}

const digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);

const imageSchema = z.object({
  id: digest,
  reference: z.string(),
  layers: z.array(digest).min(1),
  sizeBytes: z.int().min(0),
  createdAt: z.iso.datetime(),
  config: imageConfigSchema,
});

/** Decodes a stored record. @throws when the value does not have the shape of one */
export function decodeImageRecord(value: unknown): ImageRecord {
  return imageSchema.parse(value);
}

/** The id of an image made of these layers and this configuration. */
export function imageId(layers: readonly string[], config: ImageConfig): string {
  const { entrypoint, command, env, workingDir, user } = config;
  const labels = Object.entries(config.labels).sort(([one], [other]) => (one < other ? -1 : 1));
  const text = JSON.stringify({ layers, entrypoint, command, env, workingDir, user, labels });
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

/** The hex part of a digest. */
export function hexOf(digestText: string): string {
  return digestText.slice('sha256:'.length);
}
