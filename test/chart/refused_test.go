package chart

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestRefusedTogether: what does not work together is told at once, each with
// the way out.
func TestRefusedTogether(t *testing.T) {
	refusesAll(t, chart, `
service: {httpPort: 443, httpNodePort: 30080, httpsNodePort: 30080}
hostPorts: {http: 443}
autoscaling: {enabled: true, minReplicas: 11}
resources: {requests: {cpu: null}, limits: {memory: 512}}
podDisruptionBudget: {minAvailable: 100%}
extraEnv: [{name: GOMEMLIMIT, value: 1GiB}, {name: PORTICO_LOG_LEVEL, value: debug}, {name: PORTICO_TUNNEL_TIMEOUT, value: 5s}]
flags: {tunnel-timeout: 5h}
secrets: {namespaces: [a]}
acme:
  enabled: true
  issuers: [{name: a}, {name: b, ca: true, directory: "https://b.example"}, {name: c, ca: true, challenges: [dns-01]}]
  secrets: {scope: listed}
`,
		"service.httpPort, service.httpsPort: both are 443", "service.httpNodePort, service.httpsNodePort: both are 30080",
		"hostPorts.http, hostPorts.https: both are 443", "autoscaling.minReplicas: 11 is more than", "set that",
		"podDisruptionBudget.minAvailable: 100% of autoscaling.minReplicas=11", "resources.limits.memory=512: that is 512 bytes",
		"extraEnv: GOMEMLIMIT", "extraEnv: PORTICO_LOG_LEVEL has no effect beside the flag --log-level, which the chart gives; set log.level",
		"extraEnv: PORTICO_TUNNEL_TIMEOUT has no effect beside the flag --tunnel-timeout, which the chart gives; set flags.tunnel-timeout",
		"secrets.namespaces: secrets.scope=watched", "a has nobody who issues", "b has both ca: true and directory",
		"c has the challenge dns-01 without dns", "acme.secrets.scope=listed: acme.secrets.namespaces is empty")
	refusesAll(t, nodeChart, "{apiserver: {host: 192.0.2.1}, flags: {cluster-cidr: 10.0.0.0/8}, extraEnv: [{name: PORTICO_NODE_NAME, value: x}, {name: GOMEMLIMIT, value: x}]}",
		"flags.cluster-cidr: set clusterCIDR", "extraEnv: PORTICO_NODE_NAME", "extraEnv: GOMEMLIMIT")
}

// TestBudget: a budget that lets a pod go is taken.
func TestBudget(t *testing.T) {
	for text, ok := range map[string]bool{
		"{replicas: 3, podDisruptionBudget: {minAvailable: 2}}":   true,
		"{replicas: 3, podDisruptionBudget: {minAvailable: 3}}":   false,
		"{replicas: 2, podDisruptionBudget: {minAvailable: 50%}}": true,
		"{replicas: 2, podDisruptionBudget: {minAvailable: 51%}}": false, // percentages are rounded up
		"replicas: 1": true, // has none
	} {
		if _, err := helm(t, "template", "edge", chart, "-f", values(t, text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestRefusedShapes: what is not of the kind of a value, by its place.
func TestRefusedShapes(t *testing.T) {
	refusesAll(t, chart, `
flags: {tunel-timeout: 6h, tunnel-timeout: 6, backend-attempts: many, allow-underscores: maybe}
trustedProxies: [10.0.0.0/8, 10.0.0.0/33]
proxyProtocolFrom: ["2001:db8::/129"]
service: {loadBalancerSourceRanges: [192.0.2.1]}
ingressClass: {name: Inside_Class}
nameOverride: My_Name
fullnameOverride: UP
extraEnv: [{name: A, vlaue: x}]
tolerations: [{key: a, efect: NoSchedule}]
podDisruptionBudget: {minAvailable: "1"}
`, "tunel-timeout", "'/flags/tunnel-timeout'", "'/flags/backend-attempts'", "'/flags/allow-underscores'", "'/trustedProxies/1'", "'/proxyProtocolFrom/0'",
		"'/service/loadBalancerSourceRanges/0'", "'/ingressClass/name'", "'/nameOverride'", "'/fullnameOverride'", "vlaue", "efect", "'/podDisruptionBudget/minAvailable'")
	refusesAll(t, nodeChart, "{apiserver: {host: 192.0.2.1}, flags: {conntrack-minimum: 1, conntrack-min: many, conntrack-udp-timeout: 5}, tolerations: [{oprator: Exists}]}",
		"conntrack-minimum", "'/flags/conntrack-min'", "'/flags/conntrack-udp-timeout'", "oprator")
}

func refusesAll(t *testing.T, chart, text string, all ...string) {
	t.Helper()
	_, err := helm(t, "template", "edge", chart, "-f", values(t, text))
	for _, want := range all {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// flagLine is a flag in the output of --help, and the type of its value.
var flagLine = regexp.MustCompile(`(?m)^ +--([a-z0-9-]+)(?: (duration|int|string|strings|stringToString))?[ \[]`)

// shapes is what the schema takes, by the type of a flag.
var shapes = map[string]string{
	"duration":       `{"type":"string","pattern":"^(0|([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$"}`,
	"int":            `{"type":["integer","string"],"pattern":"^-?[0-9]+$"}`,
	"":               `{"type":["boolean","string"],"pattern":"^(true|false)$"}`,
	"string":         `{"type":["string","number","boolean"]}`,
	"strings":        `{"type":["string","number","boolean"]}`,
	"stringToString": `{"type":["string","number","boolean"]}`,
}

// TestSchemaOfFlags: the value flags takes every flag that the program has, by
// its type, and no other. Those with a value of their own are taken in any shape,
// so that the templates say which value that is.
func TestSchemaOfFlags(t *testing.T) {
	for _, x := range []struct{ chart, program, command, own string }{
		{chart, "portico", "controller", "portico.ownFlags"},
		{nodeChart, "portico-node", "run", "portico-node.ownFlags"},
	} {
		help, err := exec.CommandContext(t.Context(), program(t, x.program), x.command, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		properties, own := flagsOf(t, x.chart, x.own)
		flags := flagLine.FindAllStringSubmatch(string(help), -1)
		if len(flags) < 20 || len(own) < 10 {
			t.Fatalf("%s has %d flags, %d with values of their own", x.program, len(flags), len(own))
		}
		for _, f := range flags {
			want := shapes[f[2]]
			if _, ok := own[f[1]]; ok {
				want = "{}"
			}
			var got bytes.Buffer
			if err := json.Compact(&got, properties[f[1]]); err != nil || got.String() != want {
				t.Errorf("%s: the schema has --%s as %s (%v), want %s", x.chart, f[1], got.String(), err, want)
			}
			delete(properties, f[1])
			delete(own, f[1])
		}
		if len(properties) > 0 || len(own) > 0 {
			t.Errorf("%s: %s has none of %v %v", x.chart, x.program, properties, own)
		}
	}
}

// flagsOf reads the value flags of a chart's schema, and the flags that have
// values of their own.
func flagsOf(t *testing.T, chart, define string) (properties map[string]json.RawMessage, own map[string]string) {
	t.Helper()
	var schema struct {
		Properties struct {
			Flags struct {
				AdditionalProperties *bool
				Properties           map[string]json.RawMessage
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err == nil {
		err = json.Unmarshal(text, &schema)
	}
	if err != nil || schema.Properties.Flags.AdditionalProperties == nil || *schema.Properties.Flags.AdditionalProperties {
		t.Fatalf("%v: the schema takes flags that there are not", err)
	}
	checks, err := os.ReadFile(filepath.Join(chart, "templates", "_checks.tpl"))
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(checks), `{{- define "`+define+`" -}}`)
	list, _, _ = strings.Cut(list, "{{- end -}}")
	if err := yaml.Unmarshal([]byte(list), &own); err != nil {
		t.Fatal(err)
	}
	return schema.Properties.Flags.Properties, own
}
