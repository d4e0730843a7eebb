/** fio writes and verifies in the guest, over split and packed rings, while the host throttles, resizes, replaces and saves the disk. */
import { copyFileSync, truncateSync } from "node:fs"
import { HostFile } from "../../../src/backing/host/host-file.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { attachToV86, type V86Disk } from "../../../src/vmm/v86/attach.ts"
import { open, emptyImage } from "../disks.ts"
import { type Emulator, Guest } from "../emulator.ts"
import { initramfs } from "../initramfs.ts"
import { linuxOptions } from "../linux.ts"
import { debianKernel } from "../packages.ts"
import { type GuestContext, type GuestTest, same } from "../suite.ts"
import { fioProgram } from "./program.ts"

const MIB = 1 << 20
const SIZE = 64 * MIB
/** Each run writes 4 MiB in random order, and reads them back; a header in each block says what must be there. */
const JOB = "--name=v --filename=/dev/vda --direct=1 --rw=randwrite --bs=4k --size=4m --ioengine=libaio --iodepth=16 --thread " +
  "--verify=crc32c --do_verify=1 --verify_fatal=1 --gtod_reduce=1 --clocksource=clock_gettime --output=/tmp/fio"
const RUNS = 6

async function fio(context: GuestContext, ring: "split" | "packed"): Promise<string> {
  const first = context.path("first.raw")
  emptyImage(first, "raw", SIZE)
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk"], files: fioProgram() })
  const options = { v86: linuxOptions(initrd), memory: 192 * MIB, log: context.log }
  const disks: V86Disk[] = []
  const backings = [open(first, "raw")]
  const attach = (emulator: Emulator): void => {
    const backing = backings.at(-1)
    if (backing === undefined) throw new Error("no disk")
    disks.push(attachToV86(emulator, backing, { slot: 9, withFeatures: ring === "packed" ? ["RING_PACKED"] : [] }))
  }
  const guest = await Guest.start({ ...options, attach })
  await guest.expect(/VIOBLK-READY/)
  same((await guest.command("cat /sys/block/vda/device/features"))[34], ring === "packed" ? "1" : "0", "VIRTIO_F_RING_PACKED")
  const loop = `/usr/bin/fio ${JOB} --randseed=$i && echo RUN $i VERIFIED || { cat /tmp/fio; echo RUN $i FAILED; }`
  guest.emulator.serial0_send(`i=0; while [ $i -lt ${RUNS} ]; do i=$((i+1)); ${loop}; done; cat /sys/block/vda/size; echo ALL-RUNS-DONE\n`)
  const device = disks[0]?.device
  const backing = backings[0]
  if (device === undefined || !(backing instanceof RawBacking)) throw new Error("no raw disk")

  await guest.expect(/RUN 1 /)
  device.setThrottle({ requests: { perSecond: 300 }, writeBytes: { perSecond: 2 * MIB, burst: 8 * MIB } })
  await guest.expect(/RUN 2 /)
  device.setThrottle(undefined)
  truncateSync(first, SIZE + 32 * MIB)
  backing.refreshSize()
  device.capacityChanged()
  await guest.expect(/RUN 3 /)
  // Another opening of the same file, in the middle of a run.
  const again = new RawBacking(new HostFile(first))
  await device.changeBacking(again)
  backing.close()
  // The machine is saved, goes on, and goes on once more as another one over a copy.
  await new Promise((resolve) => setTimeout(resolve, 200))
  await guest.emulator.stop()
  const state = await guest.emulator.save_state()
  const second = context.path("second.raw")
  copyFileSync(first, second)
  await guest.emulator.run()
  await guest.expect(/ALL-RUNS-DONE/)
  await guest.stop()
  again.close()

  const copy = open(second, "raw")
  backings.push(copy)
  const moved = await Guest.start({ ...options, v86: { ...options.v86, initial_state: { buffer: state } }, attach })
  await moved.expect(/ALL-RUNS-DONE/)
  await moved.stop()
  copy.close()
  for (const output of [guest.output, moved.output]) {
    same(/FAILED/.test(output), false, "fio read other bytes than it had written")
    same(/\d{6}/.exec(output.slice(output.lastIndexOf("VERIFIED")))?.[0], String((SIZE + 32 * MIB) / 512), "sectors at the end")
  }
  const verified = (output: string): number => [...output.matchAll(/RUN \d VERIFIED/g)].length
  same(verified(guest.output), RUNS, "runs that the first machine verified")
  const left = verified(moved.output)
  same(left > 0 && left < RUNS, true, "the second machine went on where the first was saved")
  return `${RUNS} runs of 4 MiB written and verified, throttled, grown, over another opening, saved and restored (${left} runs there)`
}

export const fioTests: readonly GuestTest[] = [
  {
    name: "fio-split",
    title: "fio verifies while the host throttles, resizes, replaces, saves and restores",
    limit: 280,
    run: (context) => fio(context, "split"),
  },
  { name: "fio-packed", title: "the same over packed rings", limit: 280, run: (context) => fio(context, "packed") },
]
