/**
 * watchedDisk: a disk that passes all calls on to another one, and reports each range before it changes, and again after an asynchronous
 * change.
 */
import { totalLength, type VirtioBacking } from "../../backing.ts"

type Changed = (offset: number, length: number) => void

/** Wraps `disk`, with the same optional methods. `close` does nothing, because the caller still owns `disk`. */
export function watchedDisk(disk: VirtioBacking, changed: Changed): VirtioBacking {
  const { secureEraseAlignment, asynchronous, discardGranularity } = disk
  return Object.defineProperties(
    {
      readOnly: disk.readOnly,
      ...(secureEraseAlignment === undefined ? {} : { secureEraseAlignment }),
      ...(asynchronous === undefined ? {} : { asynchronous }),
      ...(discardGranularity === undefined ? {} : { discardGranularity }),
      ...readingOf(disk),
      ...changingOf(disk, changed),
      close: () => undefined,
    },
    gettersOf(disk),
  ) as VirtioBacking
}

/** The properties that may change while the disk is in use. */
function gettersOf(disk: VirtioBacking): PropertyDescriptorMap {
  const names = ["size", "zeroesAtOnce", "unmapsAtOnce", "canUnmap", "slow"] as const
  return Object.fromEntries(names.map((name) => [name, { get: () => disk[name], enumerable: true }]))
}

function readingOf(disk: VirtioBacking): Partial<VirtioBacking> & Pick<VirtioBacking, "pread"> {
  const { preadInto, preadv, preadNow, flush, lifetime, allocation, version } = disk
  return {
    pread: disk.pread.bind(disk),
    ...(preadInto === undefined ? {} : { preadInto: preadInto.bind(disk) }),
    ...(preadv === undefined ? {} : { preadv: preadv.bind(disk) }),
    ...(preadNow === undefined ? {} : { preadNow: preadNow.bind(disk) }),
    ...(flush === undefined ? {} : { flush: flush.bind(disk) }),
    ...(lifetime === undefined ? {} : { lifetime: lifetime.bind(disk) }),
    ...(allocation === undefined ? {} : { allocation: allocation.bind(disk) }),
    ...(version === undefined ? {} : { version: version.bind(disk) }),
  }
}

type Change = (offset: number, length: number, work: () => void | Promise<void>) => void | Promise<void>

function changingOf(disk: VirtioBacking, changed: Changed): Partial<VirtioBacking> & Pick<VirtioBacking, "pwrite"> {
  // A copy may have read the range before an asynchronous change reached the disk, so the end of the change counts again.
  const change: Change = (offset, length, work) => {
    changed(offset, length)
    return work()?.finally(() => changed(offset, length))
  }
  return { ...writingOf(disk, change), ...clearingOf(disk, change), ...writingNow(disk, changed) }
}

function writingOf(disk: VirtioBacking, change: Change): Partial<VirtioBacking> & Pick<VirtioBacking, "pwrite"> {
  const { pwritev } = disk
  return {
    pwrite: (buffer, offset) => change(offset, buffer.length, () => disk.pwrite(buffer, offset)),
    ...(pwritev === undefined ? {} : {
      pwritev: (buffers: readonly Uint8Array[], offset: number) => {
        return change(offset, totalLength(buffers), () => pwritev.call(disk, buffers, offset))
      },
    }),
  }
}

/** The writes that have finished when they return. */
function writingNow(disk: VirtioBacking, changed: Changed): Partial<VirtioBacking> {
  const { pwriteFrom, pwriteNow } = disk
  return {
    ...(pwriteFrom === undefined ? {} : {
      pwriteFrom: (ram: Uint8Array, start: number, length: number, offset: number) => {
        changed(offset, length)
        pwriteFrom.call(disk, ram, start, length, offset)
      },
    }),
    ...(pwriteNow === undefined ? {} : {
      pwriteNow: (buffers: readonly Uint8Array[], offset: number) => {
        changed(offset, totalLength(buffers))
        return pwriteNow.call(disk, buffers, offset)
      },
    }),
  }
}

function clearingOf(disk: VirtioBacking, change: Change): Partial<VirtioBacking> {
  const { discard, writeZeroes, secureErase } = disk
  return {
    ...(discard === undefined ? {} : {
      discard: (offset: number, length: number) => change(offset, length, () => discard.call(disk, offset, length)),
    }),
    ...(writeZeroes === undefined ? {} : {
      writeZeroes: (offset: number, length: number, mayUnmap: boolean) => {
        return change(offset, length, () => writeZeroes.call(disk, offset, length, mayUnmap))
      },
    }),
    ...(secureErase === undefined ? {} : {
      secureErase: (offset: number, length: number) => change(offset, length, () => secureErase.call(disk, offset, length)),
    }),
  }
}
