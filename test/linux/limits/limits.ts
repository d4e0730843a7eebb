/** Linux takes over what a disk says of itself: every limit in /sys/block is the one that the host has set. */
import { MemoryBacking } from "../../../src/index.ts"
import { attachToV86 } from "../../../src/vmm/v86/attach.ts"
import type { VirtioBlkOptions } from "../../../src/virtio/blk/config.ts"
import { Guest } from "../emulator.ts"
import { initramfs } from "../initramfs.ts"
import { linuxOptions } from "../linux.ts"
import { debianKernel } from "../packages.ts"
import { type GuestContext, type GuestTest, same } from "../suite.ts"

const SIZE = 64 << 20

/** A disk's options, and what files below /sys/block/vdX must say then. */
interface Case {
  readonly options: VirtioBlkOptions
  readonly expected: Readonly<Record<string, string>>
}

const CASES: readonly Case[] = [
  {
    options: { serial: "plain" },
    expected: {
      size: String(SIZE / 512), ro: "0", serial: "plain", cache_type: "write back", "queue/logical_block_size": "512",
      "queue/physical_block_size": "512", "queue/minimum_io_size": "512", "queue/optimal_io_size": "0", "queue/max_segments": "254",
      "queue/discard_granularity": "512", "queue/write_cache": "write back", "queue/fua": "0", "queue/rotational": "1",
    },
  },
  {
    options: { blockSize: 4096, physicalBlockSize: 16_384, optimalIoSize: 65_536, queueSize: 64 },
    expected: {
      size: String(SIZE / 512), "queue/logical_block_size": "4096", "queue/physical_block_size": "16384", "queue/optimal_io_size": "65536",
      "queue/max_segments": "62", "queue/discard_granularity": "512",
    },
  },
  { options: { readOnly: true }, expected: { ro: "1", "queue/discard_max_bytes": "0", "queue/write_zeroes_max_bytes": "0" } },
  {
    options: { withoutFeatures: ["FLUSH", "CONFIG_WCE"] },
    expected: { cache_type: "write through", "queue/write_cache": "write through" },
  },
]

async function limits(context: GuestContext): Promise<string> {
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk"] })
  const disks = CASES.map(({ options }) => ({ options, backing: new MemoryBacking({ size: SIZE }) }))
  const guest = await Guest.start({
    v86: linuxOptions(initrd), log: context.log,
    attach: (emulator) => {
      for (const { options, backing } of disks) attachToV86(emulator, backing, options)
    },
  })
  await guest.expect(/VIOBLK-READY/)
  let count = 0
  for (const [index, { expected }] of CASES.entries()) {
    const folder = `/sys/block/vd${"abcd"[index]}`
    for (const [file, value] of Object.entries(expected)) {
      same(await guest.command(`cat ${folder}/${file}`), value, `${folder}/${file}`)
      count++
    }
  }
  // A command of several times the longest request is cut into requests within the limits.
  await guest.command("dd if=/dev/zero of=/dev/vdb bs=24M count=2 oflag=direct 2>/dev/null")
  await guest.command("dd if=/dev/vdb of=/dev/null bs=24M count=2 iflag=direct 2>/dev/null")
  // The driver changes the cache mode (CONFIG_WCE), and is believed.
  await guest.command("echo write through >/sys/block/vda/cache_type")
  same(await guest.command("cat /sys/block/vda/cache_type"), "write through", "cache_type after it was changed")
  await guest.stop()
  return `${count} files of /sys/block say what the host has set; 48 MiB in pieces of 24 MiB; cache mode changed`
}

export const limitsTests: readonly GuestTest[] = [
  { name: "limits", title: "Linux shows the limits of the disk in /sys/block", limit: 300, run: limits },
]
