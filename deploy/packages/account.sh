# The service's user and directories; by systemd's tools where they are, else by hand.
if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers blockferry.conf || true
fi
if ! getent passwd blockferry >/dev/null; then
  useradd --system --user-group --no-create-home --home-dir /var/lib/blockferry \
    --shell /usr/sbin/nologin --comment Blockferry blockferry
fi
if command -v systemd-tmpfiles >/dev/null; then
  systemd-tmpfiles --create blockferry.conf || true
fi
[ -d /etc/blockferry ] || install -d -m 0750 -o root -g blockferry /etc/blockferry
[ -d /etc/blockferry/conf.d ] || install -d -m 0750 -o root -g blockferry /etc/blockferry/conf.d
[ -d /var/lib/blockferry ] || install -d -m 0700 -o blockferry -g blockferry /var/lib/blockferry
