#!/usr/bin/perl
# Tells whoever asks at port 80 its own address and the asker's, over TCP and UDP, one line each. When
# told to stop it goes on for WAIT seconds, as a server does that ends gracefully. Builtins alone, without
# even strict: the test image has no modules of Perl.

my $wait = $ARGV[0] // 2;
my ($inet, $stream, $datagram, $level, $reuse) = (2, 1, 2, 1, 2);
my $any = pack 'S n x4 x8', $inet, 80;

sub address { join '.', unpack 'x4 C4', $_[0] }

socket my $tcp, $inet, $stream, 0 or die "socket: $!";
setsockopt $tcp, $level, $reuse, 1;
bind $tcp, $any or die "bind: $!";
listen $tcp, 4096 or die "listen: $!";
socket my $udp, $inet, $datagram, 0 or die "socket: $!";
bind $udp, $any or die "bind: $!";

my $end;
$SIG{TERM} = sub { $end //= time + $wait };
$SIG{PIPE} = $SIG{CHLD} = 'IGNORE';
until (defined $end and time > $end) {
  my $ready = '';
  vec($ready, fileno $_, 1) = 1 for $tcp, $udp;
  next unless select($ready, undef, undef, 0.2) > 0;
  if (vec $ready, fileno $tcp, 1) {
    my $peer = accept my $connection, $tcp or next;
    my $me = address(getsockname $connection);
    syswrite $connection, "$me " . address($peer) . "\n";
    # With HOLD the connection stays open, and a process of its own answers each further line.
    if ($ENV{HOLD} and !fork) {
      while (sysread $connection, my $line, 1000) { syswrite $connection, "$me\n" }
      exit;
    }
    close $connection;
  }
  if (vec $ready, fileno $udp, 1) {
    my $peer = recv $udp, my $question, 2000, 0;
    next unless defined $peer;
    # Which of its addresses was asked, a socket for all of them cannot tell.
    send $udp, "$ENV{HOSTNAME} " . address($peer) . "\n", 0, $peer;
  }
}
