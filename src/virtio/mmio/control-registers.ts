/** The control registers of virtio over MMIO: those of both versions, and those of version 2 alone ([VIRTIO] 4.2.2). */
import { VIRTIO_F } from "../spec.ts"
import type { TransportedDevice } from "../transport.ts"
import { MAGIC_VALUE, VENDOR_ID, VIRTIO_MMIO } from "./spec.ts"
import type { WordRegister } from "./word-registers.ts"

/** The values of the selector registers. */
export interface Selects {
  deviceFeatures: number
  driverFeatures: number
  queue: number
}

/** What the registers need of the transport. */
export interface ControlHost {
  readonly version: 1 | 2
  readonly selects: Selects
  readonly interruptStatus: number
  acknowledge(bits: number): void
}

/** Every word of a shared memory region that does not exist ([VIRTIO] 4.2.2, SHMSel). */
const NO_REGION = 0xffff_ffff

/** Registers of both versions, those of features and status apart. */
export function commonRegisters(device: TransportedDevice, host: ControlHost): WordRegister[] {
  const { selects } = host
  return [
    { offset: VIRTIO_MMIO.MagicValue, read: () => MAGIC_VALUE },
    { offset: VIRTIO_MMIO.Version, read: () => host.version },
    { offset: VIRTIO_MMIO.DeviceID, read: () => device.deviceType },
    { offset: VIRTIO_MMIO.VendorID, read: () => VENDOR_ID },
    { offset: VIRTIO_MMIO.DeviceFeaturesSel, write: (value) => (selects.deviceFeatures = value) },
    { offset: VIRTIO_MMIO.DriverFeaturesSel, write: (value) => (selects.driverFeatures = value) },
    { offset: VIRTIO_MMIO.QueueSel, write: (value) => (selects.queue = value) },
    { offset: VIRTIO_MMIO.QueueSizeMax, read: () => (device.queue(selects.queue) === undefined ? 0 : device.maxQueueSize) },
    { offset: VIRTIO_MMIO.QueueSize, write: (value) => device.queue(selects.queue)?.setSize(value) },
    { offset: VIRTIO_MMIO.InterruptStatus, read: () => host.interruptStatus },
    { offset: VIRTIO_MMIO.InterruptACK, write: (value) => host.acknowledge(value) },
  ]
}

/** Registers of version 2. */
export function modernRegisters(device: TransportedDevice, { selects }: ControlHost): WordRegister[] {
  const { negotiation } = device
  const area = (offset: number, word: number): WordRegister[] => [
    { offset, write: (value) => device.queue(selects.queue)?.setAreaWord(word, value) },
    { offset: offset + 4, write: (value) => device.queue(selects.queue)?.setAreaWord(word + 1, value) },
  ]
  return [
    { offset: VIRTIO_MMIO.DeviceFeatures, read: () => negotiation.deviceFeatures(selects.deviceFeatures) },
    { offset: VIRTIO_MMIO.DriverFeatures, write: (value) => device.setDriverFeatures(selects.driverFeatures, value) },
    {
      offset: VIRTIO_MMIO.QueueReady,
      read: () => (device.queue(selects.queue)?.enabled === true ? 1 : 0),
      write: (value) => setReady(device, selects.queue, value),
    },
    { offset: VIRTIO_MMIO.Status, read: () => device.status, write: (value) => device.writeStatus(value) },
    ...area(VIRTIO_MMIO.QueueDescLow, 0),
    ...area(VIRTIO_MMIO.QueueDriverLow, 2),
    ...area(VIRTIO_MMIO.QueueDeviceLow, 4),
    { offset: VIRTIO_MMIO.SHMLenLow, read: () => NO_REGION },
    { offset: VIRTIO_MMIO.SHMLenHigh, read: () => NO_REGION },
    { offset: VIRTIO_MMIO.SHMBaseLow, read: () => NO_REGION },
    { offset: VIRTIO_MMIO.SHMBaseHigh, read: () => NO_REGION },
    {
      offset: VIRTIO_MMIO.QueueReset,
      // A reset is complete at once.
      read: () => 0,
      write: (value) => value === 1 && negotiation.isNegotiated(VIRTIO_F.RING_RESET) && device.resetQueue(selects.queue),
    },
    { offset: VIRTIO_MMIO.ConfigGeneration, read: () => device.config.readGeneration() },
  ]
}

/** Dwords of the three queue addresses. */
const AREA_WORDS = 6

/**
 * 1 starts a queue. 0 stops it at once: requests in flight no longer reach the guest. Its size and addresses stay, and it starts again with
 * index 0. Other values have no meaning.
 */
function setReady(device: TransportedDevice, index: number, value: number): void {
  const queue = device.queue(index)
  if (value === 1) queue?.enable()
  if (value !== 0 || queue?.enabled !== true) return
  const { size } = queue
  const words = Array.from({ length: AREA_WORDS }, (_, word) => queue.areaWord(word))
  device.resetQueue(index)
  queue.setSize(size)
  for (const [word, half] of words.entries()) queue.setAreaWord(word, half)
}
