package view

import (
	"net/netip"
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestCanonicalHost(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{"shop.example", "shop.example"},
		{"SHOP.Example:8443", "shop.example"},
		{"shop.example.", "shop.example"},
		{"shop.example.:80", "shop.example"},
		{"shop.example:", "shop.example"},
		{"a_b.example", "a_b.example"},
		{"192.0.2.1:80", "192.0.2.1"},
		{"[2001:DB8::1]:8443", "[2001:db8::1]"},
		{"[2001:db8:0:0::1]", "[2001:db8::1]"},
		{"localhost", "localhost"},
	} {
		got, err := CanonicalHost(tc.in)
		if err != nil || got != tc.want {
			t.Errorf("CanonicalHost(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{
		".", "..", ".a", "a..", "a..b", "a b", "a/b", "user@a", "a:b", "a:65536", "a:80:80", "a%41", "ä.example",
		"[::1", "[::1]x", "[::1]:x", "[1.2.3.4]", "[fe80::1%25eth0]", "::1", "*.example", "a,b", "a\x00",
		strings.Repeat("a", 256),
	} {
		if got, err := CanonicalHost(in); err == nil {
			t.Errorf("CanonicalHost(%q) = %q, want an error", in, got)
		}
	}
}

func TestCanonicalPath(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"/a/b/", "/a/b/"},
		{"//a//b", "//a//b"},
		{"/%61dm/x", "/adm/x"},
		{"/%7Euser/%2D", "/~user/-"},
		{"/%2f%2F%3b;x=1", "/%2f%2F%3b;x=1"},
		{"/%2541", "/%2541"},
		{"/pub/../adm/x", "/adm/x"},
		{"/pub/%2e%2E/adm", "/adm"},
		{"/pub/.%2e/adm", "/adm"},
		{"/..", "/"},
		{"/../../a", "/a"},
		{"/a/.", "/a/"},
		{"/a/..", "/"},
		{"/a/b/..", "/a/"},
		{"/a/./b", "/a/b"},
		{"/a//../b", "/a/b"},
		{"/a//..", "/a/"},
		{"/.well-known/x", "/.well-known/x"},
		{"/...", "/..."},
		{"/a..b/.c", "/a..b/.c"},
		{"/\xc3\xa4|^{}\"<>`", "/\xc3\xa4|^{}\"<>`"},
		{"/A/b;v=1/c", "/A/b;v=1/c"},
		{"/a%2fb", "/a%2fb"},
		{"/a%5cb", "/a%5cb"},
		{"/%25", "/%25"},
	} {
		got, err := CanonicalPath(tc.in)
		if err != nil || got != tc.want {
			t.Errorf("CanonicalPath(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
	for in, want := range map[string]error{
		"":              errPathSlash,
		"a":             errPathSlash,
		"*":             errPathSlash,
		"http://a/":     errPathSlash,
		"/%":            errPathPercent,
		"/%4":           errPathPercent,
		"/%zz":          errPathPercent,
		"/%%34%31":      errPathPercent,
		"/%00":          errPathNUL,
		"/a\x00":        errPathChar,
		"/a\r\nb":       errPathChar,
		"/a b":          errPathChar,
		"/a#b":          errPathChar,
		`/a\..\b`:       errPathChar,
		"/a\x7f":        errPathChar,
		"/a/..%2fb":     errPathAmbiguous,
		"/a/%2e%2e%2Fb": errPathAmbiguous,
		"/a%2f..":       errPathAmbiguous,
		"/a%2f%2e%2e/b": errPathAmbiguous,
		"/a%5c..%5cb":   errPathAmbiguous,
		"/a/..;/b":      errPathAmbiguous,
		"/a/.;x/b":      errPathAmbiguous,
		"/a%2f..;x%2fb": errPathAmbiguous,
		"/x/..;/../y":   errPathAmbiguous,
		"/%2e;":         errPathAmbiguous,
	} {
		if got, err := CanonicalPath(in); err != want {
			t.Errorf("CanonicalPath(%q) = %q, %v; want error %v", in, got, err, want)
		}
	}
}

func TestCanonicalDoesNotAllocate(t *testing.T) {
	for _, path := range []string{"/", "/shop/items/4711", "/a//b;x%2f1"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = CanonicalPath(path) }); n != 0 {
			t.Errorf("CanonicalPath(%q) allocates %v times", path, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = CanonicalHost("shop.example.:8443") }); n != 0 {
		t.Errorf("CanonicalHost allocates %v times", n)
	}
}

func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%61", "/a/..%2fb", "/%2e%2e;/x", "//..//.", "/%25%34%31", `/a\b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		once, err := CanonicalPath(in)
		if err != nil {
			return
		}
		twice, err := CanonicalPath(once)
		if err != nil || twice != once {
			t.Fatalf("%q -> %q -> %q, %v: not a fixpoint", in, once, twice, err)
		}
		if hidesDotSegment(once) {
			t.Fatalf("%q -> %q hides a dot segment", in, once)
		}
		for seg := range strings.SplitSeq(once, "/") {
			if isDots(seg) {
				t.Fatalf("%q -> %q keeps a dot segment", in, once)
			}
		}
		samePath(t, in, once)
	})
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"", "A.b:80", "[::1]:443", "a.", "x..y", "[2001:DB8:0::1]", "192.0.2.1.:1", "u@h", "[::ffff:1.2.3.4]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		once, err := CanonicalHost(in)
		if err != nil {
			return
		}
		if twice, err := CanonicalHost(once); err != nil || twice != once {
			t.Fatalf("%q -> %q -> %q, %v: not a fixpoint", in, once, twice, err)
		}
		sameHost(t, in, once)
	})
}

// samePath compares with what net/url and path make of it, where they know as much:
// they take an encoded slash for one, and several for one.
func samePath(t *testing.T, in, canonical string) {
	if strings.Contains(in, "//") || strings.Contains(strings.ToLower(in), "%2f") {
		return
	}
	raw, err := url.PathUnescape(in)
	if err != nil {
		t.Fatalf("%q: %v", in, err)
	}
	ours, err := url.PathUnescape(canonical)
	if theirs := path.Clean(raw); err != nil || path.Clean(ours) != theirs || strings.TrimSuffix(ours, "/") != strings.TrimSuffix(theirs, "/") {
		t.Fatalf("%q -> %q, which means %q, not %q: %v", in, canonical, ours, theirs, err)
	}
}

// sameHost compares with the host that net/url finds.
func sameHost(t *testing.T, in, canonical string) {
	u, err := url.Parse("http://" + in + "/")
	if err != nil {
		t.Fatalf("%q -> %q: %v", in, canonical, err)
	}
	theirs := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if addr, err := netip.ParseAddr(theirs); err == nil && addr.Is6() {
		theirs = "[" + addr.String() + "]"
	}
	if theirs != canonical || u.User != nil || u.Path != "/" {
		t.Fatalf("%q -> %q, not %q", in, canonical, theirs)
	}
}
