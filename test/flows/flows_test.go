package flows

import (
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	cases, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range cases {
		n += len(c.Flows)
		for _, f := range c.Flows {
			if f.Packet.Source.Is6() != strings.HasSuffix(c.Name, "/IPv6") {
				t.Errorf("%s: %s has source %s", c.Name, f.Name, f.Packet.Source)
			}
		}
	}
	if n < 500 {
		t.Errorf("%d flows in %d cases: the tables were not read", n, len(cases))
	}
}

func TestParseRefuses(t *testing.T) {
	const node = "nodes: [{name: n, hostname: n, ip: 192.168.0.2}]\n"
	for name, text := range map[string]string{
		"no flows":     node,
		"a typo":       node + "flows: [{form: pod 10.0.0.1, to: 10.0.0.2:80, result: pass}]",
		"no source":    node + "flows: [{from: pod, to: 10.0.0.2:80, result: pass}]",
		"an origin":    node + "flows: [{from: cloud 10.0.0.1, to: 10.0.0.2:80, result: pass}]",
		"a result":     node + "flows: [{from: pod 10.0.0.1, to: 10.0.0.2:80, result: maybe}]",
		"masquerading": node + "flows: [{from: pod 10.0.0.1, to: 10.0.0.2:80, result: 10.0.0.3:80, masquerade: perhaps}]",
		"a state":      node + "services: [{name: a/b, clusterIP: 172.30.0.1, ports: [{port: 80}], endpoints: [{ip: 10.0.0.3, state: fine}]}]\nflows: [{from: pod 10.0.0.1, to: 10.0.0.2:80, result: pass}]",
		"a name":       node + "services: [{name: b, clusterIP: 172.30.0.1}]\nflows: [{from: pod 10.0.0.1, to: 10.0.0.2:80, result: pass}]",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse("table", []byte(text)); err == nil {
				t.Error("accepted")
			}
		})
	}
}
