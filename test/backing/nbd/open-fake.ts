/** Disks and files over a `FakeServer`. */
import { onTestFinished } from "vitest"
import { BlockAccess } from "../../../src/backing/nbd/client/block-access.ts"
import { NbdClient } from "../../../src/backing/nbd/client/client.ts"
import { NbdDisk } from "../../../src/backing/nbd/nbd-disk.ts"
import { type NbdOptions, nbdSettings } from "../../../src/backing/nbd/client/options.ts"
import { parseNbdUri } from "../../../src/backing/nbd/client/uri.ts"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { type FakeOptions, FakeServer, FakeTimer } from "./fake-server.ts"

export interface Opened {
  readonly server: FakeServer
  readonly timer: FakeTimer
  readonly client: NbdClient
  readonly disk: NbdDisk
}

/** Connects to `server`. */
export async function openFake(server: FakeServer, given: NbdOptions = {}, uri = "nbd://localhost/disk"): Promise<Opened> {
  const timer = new FakeTimer()
  const settings = nbdSettings("test", given)
  const client = await NbdClient.open(parseNbdUri(uri), settings, { dial: server.dial, timer })
  const disk = new NbdDisk(new BlockAccess(client, settings), uri, settings)
  // A test may leave a disk that fails to close.
  onTestFinished(() => disk.close().catch(() => undefined))
  return { server, timer, client, disk }
}

export function openNew(options: FakeOptions, given: NbdOptions = {}): Promise<Opened> {
  return openFake(new FakeServer(options), given)
}

/** A disk that is being opened, as one that answers later. */
export function promised(size: number, opening: Promise<NbdDisk>): VirtioBacking {
  return {
    size, readOnly: false, asynchronous: true,
    pread: async (buffer, offset) => (await opening).pread(buffer, offset),
    pwrite: async (buffer, offset) => (await opening).pwrite(buffer, offset),
    flush: async () => (await opening).flush?.(),
    discard: async (offset, length) => (await opening).discard?.(offset, length),
    writeZeroes: async (offset, length, mayUnmap) => (await opening).writeZeroes?.(offset, length, mayUnmap),
    close: async () => (await opening).close(),
  }
}
