/** Changes while the guest runs: the machine is saved and restored in the middle of a copy, the disk grows, the guest trims it. */
import { copyFileSync, statSync, truncateSync } from "node:fs"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { attachToV86, type V86Disk } from "../../src/vmm/v86/attach.ts"
import { file } from "./cpio.ts"
import { checkClean, compare, contentOf, emptyImage, open, pattern } from "./disks.ts"
import { Guest } from "./emulator.ts"
import { ext4Tools } from "./filesystem.ts"
import { initramfs } from "./initramfs.ts"
import { linuxOptions } from "./linux.ts"
import { debianKernel } from "./packages.ts"
import { type GuestContext, type GuestTest, same } from "./suite.ts"
import { run } from "./cache.ts"

const MIB = 1 << 20
const COPIES = 32
const PAYLOAD = 1 << 20

/** A backing that answers later, sometimes out of order, so that there are requests in flight for which saving must wait. */
function slow(backing: VirtioBacking): VirtioBacking & { inFlight: number; most: number } {
  const later = async (act: () => void | Promise<void>): Promise<void> => {
    result.most = Math.max(result.most, ++result.inFlight)
    await new Promise((resolve) => setTimeout(resolve, 1 + (result.most * 7 + result.inFlight * 3) % 5))
    try {
      await act()
    } finally {
      result.inFlight--
    }
  }
  const result = {
    asynchronous: true, size: backing.size, readOnly: backing.readOnly, inFlight: 0, most: 0,
    pread: (buffer: Uint8Array, offset: number) => later(() => backing.pread(buffer, offset)),
    pwrite: (buffer: Uint8Array, offset: number) => later(() => backing.pwrite(buffer, offset)),
    flush: () => later(() => backing.flush?.()),
    close: () => backing.close(),
  }
  return result
}

async function saveAndRestore(context: GuestContext, waits: boolean): Promise<string> {
  const payload = pattern(PAYLOAD, 5)
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk"], files: [file("payload", payload)] })
  const options = { v86: linuxOptions(initrd), memory: 128 << 20, log: context.log }
  const first = context.path("first.qcow2")
  emptyImage(first, "qcow2", 64 * MIB)
  const backing = open(first, "qcow2")
  const delayed = waits ? slow(backing) : undefined
  const guest = await Guest.start({
    ...options, attach: (emulator) => attachToV86(emulator, delayed ?? backing, { slot: 9, serial: "saved" }),
  })
  await guest.expect(/VIOBLK-READY/)
  if (waits) {
    await guest.command("for n in 1 2 3; do while :; do dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; done & done")
  }
  // Each round writes past the page cache, reads back and compares, so there is always a request in flight.
  const write = "dd if=/payload of=/dev/vda bs=64k seek=$((i*16)) oflag=direct 2>/dev/null"
  const check = "dd if=/dev/vda bs=64k skip=$((i*16)) count=16 iflag=direct 2>/dev/null | cmp - /payload || echo DIFFERS"
  guest.emulator.serial0_send(
    `i=0; while [ $i -lt ${COPIES} ]; do ${write}; ${check}; i=$((i+1)); echo ROUND $i; done; sync; echo COPIED\n`,
  )
  await guest.expect(/ROUND (8|9)/)
  let inFlight: number | undefined
  const machine = guest.emulator.v86 as { save_state(): ArrayBuffer }
  const save = machine.save_state.bind(machine)
  machine.save_state = () => {
    inFlight = delayed?.inFlight ?? 0
    return save()
  }
  // The image must be copied while the guest is stopped: then it belongs to the state.
  await guest.emulator.stop()
  const before = delayed?.inFlight ?? 0
  const state = await guest.emulator.save_state()
  const second = context.path("second.qcow2")
  copyFileSync(first, second)
  same(inFlight, 0, "requests in flight when the state was saved")
  await guest.emulator.run()
  await guest.expect(/COPIED/) // the saved machine goes on
  await guest.stop()
  backing.close()

  const copy = open(second, "qcow2")
  const again = await Guest.start({
    ...options,
    v86: { ...options.v86, initial_state: { buffer: state } },
    attach: (emulator) => attachToV86(emulator, waits ? slow(copy) : copy, { slot: 9, serial: "saved" }),
  })
  await again.expect(/COPIED/)
  const rounds = [...again.output.matchAll(/ROUND (\d+)/g)].length
  same(/DIFFERS/.test(guest.output + again.output), false, "the guest found other bytes than it had written")
  same(rounds > 0 && rounds < COPIES, true, "the copy went on where it was saved")
  await again.stop()
  copy.close()
  for (const path of [first, second]) {
    checkClean(path)
    const expected = new Uint8Array(64 * MIB)
    for (let round = 0; round < COPIES; round++) expected.set(payload, round * PAYLOAD)
    compare(contentOf(path, "qcow2"), expected, path)
  }
  const waited = delayed === undefined ? "" : ` (${before} requests in flight just before, ${delayed.most} at most)`
  const size = (state.byteLength / MIB).toFixed(0)
  return `saved after ${COPIES - rounds} of ${COPIES} rounds${waited}, ${size} MiB; both machines finished, both images clean and right`
}

async function resize(context: GuestContext): Promise<string> {
  const path = context.path("grow.raw")
  emptyImage(path, "raw", 32 * MIB)
  const backing = open(path, "raw")
  if (!("refreshSize" in backing) || typeof backing.refreshSize !== "function") {
    throw new Error("a raw backing can look at its file's size again")
  }
  let disk: V86Disk | undefined
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk"] })
  const guest = await Guest.start({ v86: linuxOptions(initrd), log: context.log, attach: (emulator) => {
    disk = attachToV86(emulator, backing)
  } })
  await guest.expect(/VIOBLK-READY/)
  same(await guest.command("cat /sys/block/vda/size"), String((32 * MIB) / 512), "sectors at first")
  truncateSync(path, 96 * MIB)
  backing.refreshSize()
  disk?.device.capacityChanged()
  same(
    await guest.command("while [ $(cat /sys/block/vda/size) = 65536 ]; do usleep 20000; done; cat /sys/block/vda/size"),
    String((96 * MIB) / 512),
    "sectors after growing",
  )
  await guest.command("echo TAIL | dd of=/dev/vda bs=512 seek=196607 conv=sync,fsync 2>/dev/null")
  await guest.stop()
  backing.close()
  same(Buffer.from(contentOf(path, "raw").subarray(96 * MIB - 512, 96 * MIB - 507)).toString(), "TAIL\n", "last sector")
  return "32 MiB grew to 96 MiB under a running guest, which wrote the new last sector"
}

async function discard(context: GuestContext): Promise<string> {
  const path = context.path("trim.qcow2")
  emptyImage(path, "qcow2", 256 * MIB)
  const backing = open(path, "qcow2")
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"], files: ext4Tools() })
  const guest = await Guest.start({ v86: linuxOptions(initrd), attach: (emulator) => attachToV86(emulator, backing), log: context.log })
  await guest.expect(/VIOBLK-READY/)
  await guest.command("/sbin/mke2fs -q -t ext4 /dev/vda && mount -t ext4 /dev/vda /mnt")
  await guest.command("dd if=/dev/urandom of=/mnt/large bs=1M count=96 2>/dev/null; echo kept >/mnt/small; sync")
  const full = allocated(path)
  await guest.command("rm /mnt/large; sync; fstrim /mnt; sync")
  const trimmed = allocated(path)
  same(await guest.command("cat /mnt/small"), "kept", "the file that was kept")
  await guest.command("umount /mnt; /sbin/e2fsck -fn /dev/vda")
  await guest.stop()
  backing.close()
  checkClean(path)
  const end = Number(
    (
      JSON.parse(run("qemu-img", ["check", "--output=json", "-f", "qcow2", path])) as { "allocated-clusters"?: number }
    )["allocated-clusters"] ?? 0,
  )
  same(full - trimmed > 80 * MIB, true, `bytes on the host before (${full}) and after fstrim (${trimmed}): 80 MiB less`)
  same(end * 65536 < 40 * MIB, true, `allocated clusters after fstrim (${end}): below 40 MiB`)
  const [before, after] = [full, trimmed].map((bytes) => (bytes / MIB).toFixed(0))
  return `fstrim after rm of 96 MiB: ${before} MiB on the host became ${after} MiB, ${end} clusters allocated`
}

function allocated(path: string): number {
  return statSync(path).blocks * 512
}

export const stateTests: readonly GuestTest[] = [
  {
    name: "save-restore",
    title: "a copy goes on in another emulator after save_state in its middle",
    limit: 240,
    run: (context) => saveAndRestore(context, false),
  },
  {
    name: "save-restore-waiting",
    title: "the same over a backing that answers later: save_state waits for requests in flight",
    limit: 300,
    run: (context) => saveAndRestore(context, true),
  },
  { name: "resize", title: "a disk grows under the guest", limit: 120, run: resize },
  { name: "discard", title: "fstrim frees qcow2 clusters", limit: 240, run: discard },
]
