/** ZonedConfig: the fields of zoned disks in the configuration space, for drivers with ZONED ([VIRTIO] 5.2.5.2). */
import type { Zones } from "../../../backing/backing.ts"
import type { Negotiation } from "../../negotiation.ts"
import { hasBit, VIRTIO_F } from "../../spec.ts"
import { SECTOR_SIZE, VIRTIO_BLK_CONFIG, VIRTIO_BLK_CONFIG_SIZE, VIRTIO_BLK_F, VIRTIO_BLK_Z } from "../spec.ts"
import { maxAppendSectors } from "./requests.ts"

/** The device, as far as the fields depend on it. */
export interface ZonedConfigDevice {
  readonly config: { readonly fields: DataView }
  readonly negotiation: Pick<Negotiation, "offered" | "isNegotiated">
}

export class ZonedConfig {
  readonly #device: ZonedConfigDevice
  readonly #disk: { readonly backing: { readonly zones?: Zones } }

  /** The backing of `disk` may be replaced. */
  constructor(device: ZonedConfigDevice, disk: { readonly backing: { readonly zones?: Zones } }) {
    this.#device = device
    this.#disk = disk
    this.reset()
  }

  /** Whether the driver has accepted ZONED. The legacy interface does not show the feature, so accepting it there has no effect. */
  get isNegotiated(): boolean {
    const { negotiation } = this.#device
    return negotiation.isNegotiated(VIRTIO_BLK_F.ZONED) && negotiation.isNegotiated(VIRTIO_F.VERSION_1)
  }

  /** Shows the fields until negotiation is complete, because a driver may decide by them whether to accept the feature. */
  reset(): void {
    const { zones } = this.#disk.backing
    if (zones !== undefined && hasBit(this.#device.negotiation.offered, VIRTIO_BLK_F.ZONED)) this.#write(zones)
    else this.#clear()
  }

  /** Negotiation is complete. */
  negotiated(): void {
    if (!this.isNegotiated) this.#clear()
  }

  #clear(): void {
    const { fields } = this.#device.config
    for (let at: number = VIRTIO_BLK_CONFIG.zoned_zone_sectors; at < VIRTIO_BLK_CONFIG_SIZE; at++) fields.setUint8(at, 0)
  }

  #write(zones: Zones): void {
    const { fields } = this.#device.config
    fields.setUint32(VIRTIO_BLK_CONFIG.zoned_zone_sectors, zones.zoneSize / SECTOR_SIZE, true)
    fields.setUint32(VIRTIO_BLK_CONFIG.zoned_max_open_zones, Math.min(zones.maxOpenZones, 0xffff_ffff), true)
    fields.setUint32(VIRTIO_BLK_CONFIG.zoned_max_active_zones, Math.min(zones.maxActiveZones, 0xffff_ffff), true)
    fields.setUint32(VIRTIO_BLK_CONFIG.zoned_max_append_sectors, maxAppendSectors(zones), true)
    fields.setUint32(VIRTIO_BLK_CONFIG.zoned_write_granularity, zones.writeGranularity, true)
    fields.setUint8(VIRTIO_BLK_CONFIG.zoned_model, zones.model === "host-managed" ? VIRTIO_BLK_Z.HM : VIRTIO_BLK_Z.HA)
  }
}
