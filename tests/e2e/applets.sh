# SPDX-License-Identifier: Apache-2.0
# What busybox' applets make of the same input everywhere: e2e.py runs this script by the same busybox in the guest and on the
# host's processor, and compares what it prints. Runs in an empty directory.

export TZ=UTC0
seq 1 3000 >numbers
awk '{ x = ($1 * 7919) % 10007; printf "%05d %s %d\n", x, (x % 2 ? "odd" : "even"), x * x }' numbers >table
yes 'The quick brown fox jumps over the lazy dog.' | head -n 4000 >text
dd if=/dev/zero bs=4096 count=16 2>/dev/null | tr '\0' 'z' >zeros

show() { printf '%s: ' "$1"; shift; "$@"; echo "= $?"; }

# Digests and checksums.
for tool in md5sum sha1sum sha256sum sha512sum sha3sum crc32; do show "$tool" "$tool" table; done

# Text.
show sort-n sh -c 'sort -n table | md5sum'
show sort-k sh -c 'sort -k 2,2 -k 3,3nr table | head -n 5'
show sort-u sh -c 'cut -d " " -f 2 table | sort -u'
show uniq sh -c 'cut -c 1-2 table | sort | uniq -c | sort -rn | head -n 4'
show grep sh -c 'grep -cE "^0[0-9]{3}(1|3|7) odd" table'
show fgrep sh -c 'grep -F -v fox text | wc -l'
show sed sh -c "sed -nE '10,12s/([a-z]+) ([a-z]+)/\\2 \\1/gp' text"
show tr sh -c 'tr a-zA-Z n-za-mN-ZA-M <text | head -n 1'
show rev sh -c 'head -n 1 text | rev'
show fold sh -c 'head -n 2 text | fold -w 17'
show wc wc table
show tac sh -c 'tac numbers | head -n 2'
show nl sh -c 'tail -n 2 table | nl'
show paste sh -c 'seq 1 6 | paste -s -d ,'
show diff sh -c 'seq 1 9 >a; seq 5 12 >b; diff -u a b | tail -n +3'
show patch sh -c 'diff -u a b >p; cp a c; patch c p; cmp b c'
show expand sh -c 'printf "a\tb\n" | expand'
show shuf sh -c 'shuf -i 1-500 | sort -n | md5sum'
show strings sh -c 'printf "\1\2hello\0\3worlds\n" | strings'

# Numbers: integers, floating point, bits.
show awk awk 'BEGIN { for (i = 1; i < 2000; ++i) { s += 1 / i; t += i / (i * i + 0.37); p = p * 0.75 + i / 7 } printf "%.15g %.15g %.12e\n", s, t, p }'
show awk-sum awk '{ n += $3; if ($1 > m) m = $1 } END { print n, m, n % 97, int(n / 13) }' table
show bc sh -c 'echo "scale=60; 4*a(1); 2^200 % 1000007" | bc -l'
show dc dc -e '2 k 100 3 / p 16 o 255 p'
show expr expr 123456789 '*' 987 % 65537
show shell sh -c 'a=1; i=0; while [ $i -lt 2000 ]; do a=$(((a * 1103515245 + 12345) & 0x7fffffff)); i=$((i + 1)); done; echo $a'
show factor factor 600851475143 18446744073709551557
show printf printf '%08.3f|%-6s|%x|%o|%c\n' 3.14159 ab 255 8 xyz
show cal cal 2 2024
show date date -u -d @1700000000 '+%F %T %A week %V day %j'
show ipcalc ipcalc -n -b 192.168.17.42 255.255.240.0

# Binary data.
show od sh -c 'od -A x -t x4 zeros | head -n 3'
show hexdump sh -c 'head -c 40 table | hexdump -C'
show xxd sh -c 'head -c 20 table | xxd -p'
show base64 sh -c 'head -c 300 table | base64 | base64 -d | md5sum'
show uuencode sh -c 'head -c 60 table | uuencode x'

# Compression and archives, each there and back.
show gzip sh -c 'gzip -9 -n <table | md5sum; gzip -c <text | gunzip | cmp - text'
show bzip2 sh -c 'bzip2 -c <table | md5sum; bzip2 -c <text | bunzip2 | cmp - text'
show tar sh -c 'mkdir -p t/u; cp a b t; cp c t/u; tar cf - t | tar tf - | sort; tar czf t.tgz t; rm -r t; tar xzf t.tgz; cmp t/u/c c'
show cpio sh -c 'find t | sort | cpio -o -H newc 2>/dev/null | cpio -t 2>/dev/null'

# Files.
show find sh -c 'find t -type f -size -2 -name "[ab]" | sort'
show xargs sh -c 'ls t | xargs -n 1 echo item'
show ln sh -c 'ln -s t/a l; readlink l; ln t/a h; stat -c "%h %s" h; rm t/a; cat h | wc -l'
show test sh -c '[ -L l ] && [ ! -e l ] && [ -d t/u ] && echo yes'
show chmod sh -c 'chmod 4751 h; stat -c %a h'
show truncate sh -c 'truncate -s 5000 h; stat -c %s h'
show dd sh -c 'dd if=table of=d bs=100 skip=3 count=7 conv=notrunc 2>/dev/null; md5sum <d'
show cmp cmp a b
show basename sh -c 'basename /x/y.tar .tar; dirname /x/y.tar'
show mktemp sh -c 'mktemp -u XXXXXX | wc -c'

# Processes.
show pipe sh -c 'seq 1 20000 | while read -r n; do [ $((n % 4000)) = 0 ] && echo $n; done'
show trap sh -c '(trap "echo caught; exit 3" TERM; kill -TERM $(exec sh -c "echo \$PPID"); sleep 1)'
show background sh -c 'for i in 1 2 3 4; do (seq 1 500 | awk "{ s += \$1 * $i } END { print s }") & done | sort -n; wait'
show env env -i A=1 sh -c 'echo $A$B'
