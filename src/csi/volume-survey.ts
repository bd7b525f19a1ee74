/** What plugins know beside Berth's own records: their volumes, and how much room they have. Nothing is changed. */

import type { Plugin } from './plugin.ts';
import { type PluginCaller, question } from './plugin-caller.ts';
import { CsiError, checkPluginName, type StringMap } from './protocol.ts';
import type { VolumeRecord } from './volume.ts';
import { askCapacity, type VolumeCapacity } from './volume-capacity.ts';
import { withoutClass } from './volume-class.ts';
import type { VolumeClassDirectory } from './volume-class-directory.ts';
import { type ListedVolume, listVolumes } from './volume-listing.ts';
import { DEFAULT_DRIVER, type VolumeAccess } from './volume-request.ts';

/** A volume that the plugin lists, or one on record that it does not know any more. */
export interface SurveyedVolume extends ListedVolume {
  readonly state: 'managed' | 'unmanaged' | 'missing';
  /** Berth's name for it, if it has one. */
  readonly name?: string | undefined;
}

/** What kind of volumes there must be room for. */
export interface CapacityQuestion {
  readonly driver?: string | undefined;
  readonly volumeClass?: string | undefined;
  readonly access?: VolumeAccess | undefined;
  readonly parameters: StringMap;
}

export interface VolumeSurveyOptions {
  readonly caller: PluginCaller;
  readonly records: () => readonly VolumeRecord[];
  readonly classes: Pick<VolumeClassDirectory, 'fill'>;
}

export class VolumeSurvey {
  readonly #options: VolumeSurveyOptions;

  constructor(options: VolumeSurveyOptions) {
    this.#options = options;
  }

  /**
   * Every volume that a plugin lists, and after them those on record that are gone. One is called missing only when it
   * was asked for by itself, or is absent from two listings: a listing may have gaps (CSI ListVolumes).
   * @throws {CsiError} UNIMPLEMENTED when the plugin lists none, or what it says
   */
  async list(driver: string, signal: AbortSignal): Promise<readonly SurveyedVolume[]> {
    const { caller } = this.#options;
    const plugin = await caller.plugin(checkPluginName('driver', driver), signal);
    const before = this.#standing(driver);
    const listed = await listVolumes(caller, plugin, signal);
    const seen = new Set(listed.map(({ volumeId }) => volumeId));
    const absent = before.filter(({ volumeId }) => !seen.has(volumeId));
    const gone = absent.length === 0 ? [] : await this.#gone(plugin, absent, signal);
    // Made or removed meanwhile.
    const now = this.#standing(driver);
    const names = new Map(now.map(({ volumeId, name }) => [volumeId, name]));
    return [
      ...listed.map((volume): SurveyedVolume => {
        const name = names.get(volume.volumeId);
        return name === undefined ? { ...volume, state: 'unmanaged' } : { ...volume, state: 'managed', name };
      }),
      ...gone
        .filter(({ name }) => now.some((record) => record.name === name))
        .map(({ name, volumeId, capacityBytes, volumeContext }): SurveyedVolume => {
          return { state: 'missing', name, volumeId, capacityBytes, volumeContext, nodeIds: [] };
        }),
    ];
  }

  /**
   * Room for volumes of a kind.
   * @throws {RuntimeError} NOT_FOUND without such a class, {CsiError} UNIMPLEMENTED when the plugin does not tell
   */
  async capacity(
    { driver, volumeClass, access, parameters }: CapacityQuestion,
    signal: AbortSignal,
  ): Promise<VolumeCapacity & { readonly driver: string; readonly volumeClass?: string | undefined }> {
    const { caller, classes } = this.#options;
    const asked = { name: 'capacity', driver, volumeClass, access, parameters };
    const wish = volumeClass === undefined ? withoutClass(asked) : await classes.fill(asked);
    const plugin = await caller.plugin(wish.driver ?? DEFAULT_DRIVER, signal);
    // A class speaks of file systems unless it says otherwise.
    const kind = { ...wish, access: wish.access ?? (volumeClass === undefined ? undefined : 'mount') };
    return { driver: plugin.name, volumeClass, ...(await askCapacity(caller, plugin, kind, signal)) };
  }

  /** Records of volumes that must be there. */
  #standing(driver: string): readonly (VolumeRecord & { readonly volumeId: string })[] {
    return this.#options
      .records()
      .flatMap((record) =>
        record.driver === driver && record.volumeId !== undefined && record.state !== 'deleting'
          ? [{ ...record, volumeId: record.volumeId }]
          : [],
      );
  }

  async #gone<T extends { readonly volumeId: string }>(
    plugin: Plugin,
    absent: readonly T[],
    signal: AbortSignal,
  ): Promise<readonly T[]> {
    const { caller } = this.#options;
    if (!plugin.capabilities.controller.has('GET_VOLUME')) {
      const again = new Set((await listVolumes(caller, plugin, signal)).map(({ volumeId }) => volumeId));
      return absent.filter(({ volumeId }) => !again.has(volumeId));
    }
    const gone: T[] = [];
    for (const record of absent) if (await this.#isUnknown(plugin, record.volumeId, signal)) gone.push(record);
    return gone;
  }

  async #isUnknown(plugin: Plugin, volumeId: string, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#options.caller.call(question(plugin.name), 'ControllerGetVolume', { volumeId }, signal);
      return false;
    } catch (error) {
      if (error instanceof CsiError && error.code === 'NOT_FOUND') return true;
      throw error;
    }
  }
}
