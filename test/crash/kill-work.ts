/** What the killed process does, drawn from a seed: the process draws it, and whoever looks at what it has left draws it again. */
import type { Rng } from "../support/rng.ts"
import { isWhole, randomWholeOperation, type WholeModel, wholeModelAfter, type WholeOperation } from "./whole/operations.ts"

export type KillOperation = WholeOperation | { readonly kind: "commit" }

/** Cluster size of the image that the kill tests use, and the bytes of its disk when it is new. */
export const KILL_CLUSTER_SIZE = 1024
export const KILL_SIZE = 1 << 20

export function drawOperation(rng: Rng, model: WholeModel): KillOperation {
  if (rng.chance(0.004)) return { kind: "commit" }
  return randomWholeOperation(
    rng,
    { size: model.disk.size, longest: 30_000, share: 0.01, snapshots: true, sizes: [20_000, KILL_SIZE] },
    model,
  )
}

/** The model after an operation, but for what writes, zeroes and discards change. */
export function modelAfter(model: WholeModel, operation: KillOperation): WholeModel {
  return operation.kind !== "commit" && isWhole(operation) ? wholeModelAfter(model, operation) : model
}
