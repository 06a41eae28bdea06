package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/test/backend"
)

// TestHostileHeads sends what no honest client sends, on new connections and
// behind an honest request. Each is refused, the connection closes, the backend
// sees nothing of it, and others are served as before.
func TestHostileHeads(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	post := func(fields string) string {
		return "POST /x HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n\r\n"
	}
	smuggled := "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, tt := range map[string]struct {
		raw    string
		status int
	}{
		"CL and TE":            {post("Content-Length: 4\r\nTransfer-Encoding: chunked") + smuggled, 400},
		"TE and CL":            {post("Transfer-Encoding: chunked\r\nContent-Length: 4") + smuggled, 400},
		"two lengths":          {post("Content-Length: 0\r\nContent-Length: 44") + smuggled, 400},
		"length list":          {post("Content-Length: 0, 44") + smuggled, 400},
		"length sign":          {post("Content-Length: +0") + smuggled, 400},
		"TE twice":             {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity") + smuggled, 400},
		"TE list":              {post("Transfer-Encoding: chunked, identity") + smuggled, 400},
		"TE comma":             {post("Transfer-Encoding: chunked,") + smuggled, 400},
		"TE odd":               {post("Transfer-Encoding: xchunked") + smuggled, 400},
		"TE quoted":            {post("Transfer-Encoding: \"chunked\"") + smuggled, 400},
		"TE blank before":      {post("Transfer-Encoding : chunked") + smuggled, 400},
		"TE folded":            {post("Transfer-Encoding:\r\n chunked") + smuggled, 400},
		"TE in 1.0":            {"POST /x HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled, 400},
		"bare LF":              {"GET /x HTTP/1.1\nHost: h\n\n", 400},
		"bare CR in a value":   {post("A: b\rTransfer-Encoding: chunked"), 400},
		"NUL":                  {post("A: b\x00c"), 400},
		"no host":              {"GET /x HTTP/1.1\r\n\r\n", 400},
		"two hosts":            {"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"host with user":       {"GET /x HTTP/1.1\r\nHost: a@b\r\n\r\n", 400},
		"host with path":       {"GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
		"absolute with user":   {"GET http://a@b/x HTTP/1.1\r\nHost: b\r\n\r\n", 400},
		"fragment":             {"GET /x#y HTTP/1.1\r\nHost: h\r\n\r\n", 400},
		"hidden dots":          {"GET /x/..%2f..%2fadm HTTP/1.1\r\nHost: h\r\n\r\n", 400},
		"dots with parameter":  {"GET /x/..;/adm HTTP/1.1\r\nHost: h\r\n\r\n", 400},
		"backslash":            {"GET /x\\..\\adm HTTP/1.1\r\nHost: h\r\n\r\n", 400},
		"bad percent":          {"GET /x%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400},
		"NUL encoded":          {"GET /x%00 HTTP/1.1\r\nHost: h\r\n\r\n", 400},
		"CONNECT":              {"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 405},
		"CONNECT to a path":    {"CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n", 405},
		"TRACE":                {"TRACE /x HTTP/1.1\r\nHost: h\r\n\r\n", 405},
		"h2c upgrade":          {"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 400},
		"h2c among others":     {"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket, H2C\r\n\r\n", 400},
		"HTTP/0.9":             {"GET /x\r\n\r\n", 400},
		"HTTP/2.0 in text":     {"GET /x HTTP/2.0\r\nHost: h\r\n\r\n", 505},
		"expectation":          {post("Expect: the-worst"), 417},
		"long target":          {"GET /" + strings.Repeat("x", 17<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n", 414},
		"large head":           {post("A: " + strings.Repeat("x", 65<<10)), 431},
		"many fields":          {post(strings.Repeat("A: b\r\n", 300)), 431},
		"TLS on the HTTP port": {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			for _, reused := range []bool{false, true} {
				c := g.dial()
				if reused {
					if status, _ := c.do(canary); status != 200 {
						t.Fatal("canary before the request fails")
					}
				}
				c.Write([]byte(tt.raw)) // the answer may come before the end
				resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
				if err != nil {
					t.Fatalf("reused %v: %v", reused, err)
				}
				if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != tt.status {
					t.Errorf("reused %v: status %d, want %d; %v", reused, resp.StatusCode, tt.status, err)
				}
				if rest := c.closed(); rest != "" || !resp.Close {
					t.Errorf("reused %v: close %v, more came: %q", reused, resp.Close, rest)
				}
				g.checkCanary()
			}
			if seen := g.seen(); seen != "" {
				t.Errorf("the backend saw %q", seen)
			}
		})
	}
}

// TestHostileChunks breaks off inside a chunked body that is being forwarded:
// the backend never sees its end, and what follows is never a request.
func TestHostileChunks(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	for name, body := range map[string]string{
		"bare LF after size": "5\nhello\r\n0\r\n\r\n",
		"bare LF after data": "5\r\nhello\n0\r\n\r\n",
		"LF in extension":    "5;a\nb\r\nhello\r\n0\r\n\r\n",
		"CR in extension":    "5;a\rb\r\nhello\r\n0\r\n\r\n",
		"0x":                 "0x5\r\nhello\r\n0\r\n\r\n",
		"sign":               "+5\r\nhello\r\n0\r\n\r\n",
		"blank":              "5 \r\nhello\r\n0\r\n\r\n",
		"longer than said":   "5\r\nhelloGET\r\n0\r\n\r\n",
		"overflow":           "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"bad last chunk":     "5\r\nhello\r\n0\n\r\n",
		"trailer bare LF":    "5\r\nhello\r\n0\r\nA: b\n\r\n",
		"trailer folded":     "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
		"huge trailer":       "5\r\nhello\r\n0\r\nA: " + strings.Repeat("b", 20<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, before := range []string{"", canary} {
				c := g.dial()
				if before != "" {
					c.do(before)
				}
				c.Write([]byte("POST /chunks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + body + "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"))
				resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != 400 && resp.StatusCode != 431 || !resp.Close {
					t.Errorf("status %d, close %v", resp.StatusCode, resp.Close)
				}
				if rest := c.closed(); rest != "" {
					t.Errorf("more came: %q", rest)
				}
			}
			g.checkCanary()
			if seen := g.seen(); strings.Contains(seen, "smuggled") || strings.Contains(seen, "\r\n0\r\n") {
				t.Errorf("the backend saw %q", seen)
			}
		})
	}
}

// TestBytesOnTheWire pins down exactly what a backend sees.
func TestBytesOnTheWire(t *testing.T) {
	id := strings.Repeat("I", 32)
	ours := "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: HOST\r\nX-Forwarded-Port: PORT\r\nX-Real-IP: 127.0.0.1\r\nX-Request-ID: " + id + "\r\n"
	for name, tt := range map[string]struct {
		raw, want, host, port string
	}{
		"plain": {"GET /a?b=%zz;c HTTP/1.1\r\nHost: Shop.Example:8080\r\naccept: */*\r\n\r\n",
			"GET /a?b=%zz;c HTTP/1.1\r\nHost: Shop.Example:8080\r\naccept: */*\r\nOURS\r\n", "Shop.Example:8080", "8080"},
		"canonical path": {"GET /a/../%61dm/x%2fy//z;p?q/../r HTTP/1.1\r\nHost: h\r\n\r\n",
			"GET /adm/x%2fy//z;p?q/../r HTTP/1.1\r\nHost: h\r\nOURS\r\n", "h", "80"},
		"empty query": {"GET /a? HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a? HTTP/1.1\r\nHost: h\r\nOURS\r\n", "h", "80"},
		"absolute form wins": {"GET http://right.example/a HTTP/1.1\r\nHost: wrong.example\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: right.example\r\nOURS\r\n", "right.example", "80"},
		"options": {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: h\r\nOURS\r\n", "h", "80"},
		"hop by hop": {"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop, X-Real-IP, Authorization, Host\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nTE: gzip\r\nUpgrade: websocket\r\nTrailer: z\r\nAuthorization: secret\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: secret\r\nOURS\r\n", "h", "80"},
		"spoofed identity": {"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nx-forwarded-proto: https\r\nX_Forwarded_For: 1.2.3.4\r\nX-Real-Ip: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Original-URL: /adm\r\nX-Original-Forwarded-For: 1\r\nX-Scheme: https\r\nX-Forwarded-Prefix: /a\r\nX-Forwarded-User: root\r\nX-Forwarded_Host: evil\r\nX-Request-ID: mine\r\nClient-Cert: x\r\nssl-client-verify: SUCCESS\r\nA_b: c\r\nProxy: evil:3128\r\nKept: yes\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: h\r\nKept: yes\r\nOURS\r\n", "h", "80"},
		"TE trailers": {"GET / HTTP/1.1\r\nHost: h\r\nConnection: TE\r\nTE: deflate, trailers\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: h\r\nOURSConnection: TE\r\nTE: trailers\r\n\r\n", "h", "80"},
		"length": {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello",
			"POST / HTTP/1.1\r\nHost: h\r\nOURSContent-Length: 5\r\n\r\nhello", "h", "80"},
		"GET with a body": {"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
			"GET / HTTP/1.1\r\nHost: h\r\nOURSContent-Length: 5\r\n\r\nhello", "h", "80"},
		"chunks": {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\nTrailer: Sum\r\n\r\n005;x=y\r\nhello\r\n0\r\nSum: 1\r\nHost: evil\r\nX-Forwarded-For: 1\r\nClient-Cert: :x:\r\nSSL-Client-Verify: SUCCESS\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: h\r\nTrailer: Sum\r\nOURSTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 1\r\n\r\n", "h", "80"},
		"1.0": {"GET / HTTP/1.0\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\nOURS\r\n", "h", "80"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, backend.OK("ok"))
			c := g.dial()
			if status, body := c.do(tt.raw); status != 200 || body != "ok" {
				t.Fatalf("%d %q", status, body)
			}
			got := g.backend.Received()
			if _, after, ok := strings.Cut(got, "X-Request-ID: "); ok && len(after) > 32 {
				got = strings.Replace(got, after[:32], id, 1)
			}
			want := strings.Replace(tt.want, "OURS", strings.NewReplacer("HOST", tt.host, "PORT", tt.port).Replace(ours), 1)
			if got != want {
				t.Errorf("the backend saw\n%q, want\n%q", got, want)
			}
		})
	}
}
