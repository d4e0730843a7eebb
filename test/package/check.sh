#!/usr/bin/env bash
# Packs the project, installs the tarball in empty projects, and uses it there: from JavaScript, from TypeScript, and as a command.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm pack --silent --pack-destination "$work" >/dev/null
tarball=$(ls "$work"/vioblk-*.tgz)
# Whatever is not built from src does not belong in it.
if tar -tzf "$tarball" | grep -vE '^package/(dist/.*\.(js|d\.ts)|package\.json|README\.md|LICENSE)$'; then
  echo "the package contains what it should not"
  exit 1
fi

mkdir "$work/js" "$work/ts"
(
  cd "$work/js"
  npm init -y >/dev/null
  npm install --silent --no-audit --no-fund "$tarball"
  cp "$root/test/package/use.mjs" .
  node use.mjs
  npx --no-install vioblk --json | node -e 'const r = JSON.parse(require("node:fs").readFileSync(0, "utf8")); if (!r.equal) process.exit(1); console.log("command: ok")'
  test "$(npm ls --omit=dev --parseable --all | grep -c node_modules)" = 1
)
(
  cd "$work/ts"
  npm init -y >/dev/null
  npm pkg set type=module
  npm install --silent --no-audit --no-fund "$tarball"
  cp "$root/test/package/use.ts" .
  # Types must be good for a strict consumer that checks declarations and has no @types/node.
  "$root/node_modules/.bin/tsc" --strict --noEmit --module nodenext --moduleResolution nodenext --target es2022 --lib es2023 --types "" use.ts
  echo "types: ok"
)
