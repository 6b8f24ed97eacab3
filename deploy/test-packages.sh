#!/bin/bash
# Installs the Debian packages that the tests need and pip cannot bring: a browser and what drives it, a PostgreSQL
# server, the OpenMP runtime of the llama engine, what reads pictures, a C compiler, Prometheus, and the two proxies of
# deploy/. No service of theirs is started.
# Installs nothing that is there already; without the rights to install it says what to type.
set -euo pipefail

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
# OpenMP runtime of the llama engine
compgen -G '/usr/lib/*/libgomp.so.1' >/dev/null || missing+=(libgomp1)
# what the browser's driver is linked with
compgen -G '/usr/lib/*/libatomic.so.1' >/dev/null || missing+=(libatomic1)
# the stand-in for the Edge TPU's library is compiled when a test needs it
command -v gcc >/dev/null || missing+=(gcc)
compgen -G '/usr/include/*/bits/libc-header-start.h' >/dev/null || missing+=(libc6-dev)
# pictures and scans as text
command -v tesseract >/dev/null || missing+=(tesseract-ocr tesseract-ocr-eng)
# checks the alert rules and scrapes a running system
command -v promtool >/dev/null || missing+=(prometheus)
# the proxies that speak TLS before the reef; not every distribution has Caddy, and its tests are skipped there
command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] || missing+=(nginx)
if ! command -v caddy >/dev/null && apt-cache show caddy >/dev/null 2>&1; then missing+=(caddy); fi
((${#missing[@]})) || exit 0

as_root=()
if [[ $(id -u) != 0 ]]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
  else
    echo "The tests need these packages: ${missing[*]}" >&2
    echo "Install them, then run make test again:  sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
command -v apt-get >/dev/null || { echo "The tests need: ${missing[*]}. Install them with your package manager." >&2; exit 1; }

echo "Installing ${missing[*]} ..."
# the tests start their own servers on ports of their own
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
# nor shall they take ports 80 and 443 when the machine starts again
for name in nginx caddy; do
  if [[ " ${missing[*]} " == *" $name "* ]] && command -v systemctl >/dev/null; then
    "${as_root[@]}" systemctl disable -q "$name" 2>/dev/null || true
  fi
done
