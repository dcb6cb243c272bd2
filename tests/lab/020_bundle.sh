#!/usr/bin/env bash
# The bundle installs, reinstalls and uninstalls; the plugin has the privileges that the README names
# and no others; enabling takes no longer than Docker's own part of it.
. "$(dirname "$0")/lib.sh"

size=$(du -sb "$BUNDLE" | cut -f1)
assert_at_most "$size" $((12 * 1024 * 1024)) "bytes of the bundle"

lab_up 1
# The machine's own /usr/local/bin is out of bounds.
on 1 mount -t tmpfs tmpfs /usr/local/bin
on 1 "$REPO/rootfs-build/install.sh" "$PLUGIN" LOG_LEVEL=debug
plugin_enabled 1
on 1 "$REPO/rootfs-build/install.sh" "$PLUGIN" WEAVE_NICKNAME=again
settings=$(d 1 plugin inspect -f '{{join .Settings.Env "\n"}}' "$PLUGIN")
assert_contains "$settings" LOG_LEVEL=debug
assert_contains "$settings" WEAVE_NICKNAME=again
on 1 test -x /usr/local/bin/weave
wait_for 5 weave 1 status

assert_eq "$(d 1 plugin inspect -f '{{join .Config.Linux.Capabilities " "}}' "$PLUGIN")" "CAP_NET_ADMIN CAP_SYS_ADMIN" capabilities
assert_eq "$(d 1 plugin inspect -f '{{len .Config.Mounts}}' "$PLUGIN")" 2 mounts

d 1 plugin disable "$PLUGIN" >/dev/null
within 2 d 1 plugin enable "$PLUGIN"

on 1 "$REPO/rootfs-build/uninstall.sh" "$PLUGIN"
on 1 "$REPO/rootfs-build/uninstall.sh" "$PLUGIN"
assert_eq "$(d 1 plugin ls -q)" "" "plugins left"
on 1 test ! -e /usr/local/bin/weave
