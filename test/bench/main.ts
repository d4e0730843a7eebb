/** `npm run bench [section ...]`: speed as ratios within one run, against bare file calls and against qemu-img on the same image. */
import { benchDevice } from "./device.ts"
import { benchHold } from "./hold.ts"
import { benchHttpMemory } from "./http-memory.ts"
import { benchHttp } from "./http.ts"
import { benchLuks } from "./luks/luks.ts"
import { benchNbdClient } from "./nbd-client.ts"
import { benchNbdServer } from "./nbd-server.ts"
import { benchOperations } from "./operations/operations.ts"
import { benchPacked } from "./packed/packed.ts"
import { benchPaged } from "./paged.ts"
import { benchPolicy } from "./policy.ts"
import { benchQcow2 } from "./qcow2.ts"
import { benchQemu } from "./qemu.ts"
import { benchRing } from "./ring/ring.ts"

const sections: Readonly<Record<string, () => void | Promise<void>>> = {
  ring: benchRing, packed: benchPacked, policy: benchPolicy, device: benchDevice, hold: benchHold, paged: benchPaged, qemu: benchQemu,
  qcow2: benchQcow2, luks: benchLuks, operations: benchOperations,
  nbd: benchNbdClient,
  http: benchHttp, "http-memory": benchHttpMemory, "nbd-server": benchNbdServer,
}

const wanted = process.argv.slice(2)
const unknown = wanted.find((name) => !(name in sections))
if (unknown !== undefined) {
  console.error(`bench: no section "${unknown}"; there are ${Object.keys(sections).join(", ")}`)
  process.exit(2)
}
for (const [name, run] of Object.entries(sections)) {
  if (wanted.length === 0 || wanted.includes(name)) await run()
}
