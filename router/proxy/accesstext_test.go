package proxy

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/view"
)

// nginxLine is the pattern by which log pipelines take ingress-nginx's lines apart.
var nginxLine = regexp.MustCompile(`^(\S+) - (\S+) \[([^\]]+)\] "((?:[^"\\]|\\x[0-9A-F]{2})*)" (\d+) (\d+) "((?:[^"\\]|\\x[0-9A-F]{2})*)" "((?:[^"\\]|\\x[0-9A-F]{2})*)" (\d+) (\d+\.\d{3}) \[([^\]]*)\] \[\] (\S+) (\S+) (\S+) (\S+) (\S+)\n$`)

func TestNginxLine(t *testing.T) {
	request := view.Request{
		Client: netip.MustParseAddr("192.0.2.7"), Method: "POST", Path: "/a", Query: "token=hunter2", HasQuery: true, Proto: "HTTP/1.1", ID: "f00",
		Fields: view.Fields{{Name: "User-Agent", Value: "a \"b\"\t\xff"}, {Name: "Referer", Value: "https://h/x?token=hunter2"}, {Name: "Authorization", Value: "Basic aHVudGVyMjpodW50ZXIy"}},
	}
	start := time.Date(2026, 3, 1, 12, 30, 1, 0, time.FixedZone("", 3600))
	for name, tc := range map[string]struct {
		rec  view.Record
		want string
	}{
		"served": {view.Record{Start: start, Request: &request, Status: 200, BytesIn: 3, BytesOut: 2, Service: "shop/web", Port: "http", Endpoint: "10.0.0.1:80", Attempts: 1, Duration: 12 * time.Millisecond, Upstream: 11 * time.Millisecond},
			`192.0.2.7 - - [01/Mar/2026:11:30:01 +0000] "POST /a HTTP/1.1" 200 2 "https://h/x" "a \x22b\x22\x09\xFF" 3 0.012 [shop-web-http] [] 10.0.0.1:80 2 0.011 200 f00`},
		"no route": {view.Record{Start: start, Request: &request, Status: 404, BytesOut: 9, Reason: "no_route"},
			`192.0.2.7 - - [01/Mar/2026:11:30:01 +0000] "POST /a HTTP/1.1" 404 9 "https://h/x" "a \x22b\x22\x09\xFF" 0 0.000 [] [] - - - - f00`},
		"client gone": {view.Record{Start: start, Request: &view.Request{Client: request.Client, Method: "GET", Path: "/", Proto: "HTTP/2.0", ID: "f01"}, Status: 499, Service: "shop/web", Port: "80", Endpoint: "[2001:db8::1]:80", Reason: "client_gone"},
			`192.0.2.7 - - [01/Mar/2026:11:30:01 +0000] "GET / HTTP/2.0" 499 0 "-" "-" 0 0.000 [shop-web-80] [] [2001:db8::1]:80 0 0.000 - f01`},
		"unreadable": {view.Record{Start: start, Request: &view.Request{Client: request.Client, Proto: "HTTP/1.1", ID: "f02"}, Status: 400, Reason: "request_line"},
			`192.0.2.7 - - [01/Mar/2026:11:30:01 +0000] "-" 400 0 "-" "-" 0 0.000 [] [] - - - - f02`},
	} {
		got := string(NginxLine(nil, &tc.rec))
		if got != tc.want+"\n" {
			t.Errorf("%s:\n%swant\n%s", name, got, tc.want)
		}
		if !nginxLine.MatchString(got) {
			t.Errorf("%s: is not taken apart: %s", name, got)
		}
	}
}

func FuzzNginxLine(f *testing.F) {
	f.Add("GET", "/a b\"", "x\r\n\\", "https://h/?q")
	f.Add("", "", "\x00\x7f\xff", "]")
	f.Fuzz(func(t *testing.T, method, path, agent, referer string) {
		line := string(NginxLine(nil, &view.Record{Status: 400, Request: &view.Request{
			Client: netip.IPv6Loopback(), Method: method, Path: path, Proto: "HTTP/1.1", ID: "f00",
			Fields: view.Fields{{Name: "User-Agent", Value: agent}, {Name: "Referer", Value: referer}},
		}}))
		if !nginxLine.MatchString(line) || strings.Count(line, "\n") != 1 {
			t.Errorf("%q", line)
		}
	})
}
