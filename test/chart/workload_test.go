package chart

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/portico-ingress/portico/test/envtest"
)

// TestHostPortUpdate: with host ports a new pod cannot start beside an old one
// on each node, so a Deployment that demands it would never get on.
func TestHostPortUpdate(t *testing.T) {
	for set, want := range map[string]string{"hostPorts.enabled=false": "0 1", "hostPorts.enabled=true": "1 0"} {
		text, err := helm(t, "template", "edge", chart, "--set", set)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range objects(t, text) {
			if u.GetKind() != "Deployment" {
				continue
			}
			r := as[appsv1.Deployment](t, u).Spec.Strategy.RollingUpdate
			if got := r.MaxUnavailable.String() + " " + r.MaxSurge.String(); got != want {
				t.Errorf("%s: maxUnavailable and maxSurge are %s, want %s", set, got, want)
			}
		}
	}
}

// TestPods: what an update replaces does not count for the spread, and one slow
// answer does not take a pod out.
func TestPods(t *testing.T) {
	forEach(t, func(t *testing.T, name, text string) {
		spec := podTemplate(t, text).Spec
		for _, c := range spec.TopologySpreadConstraints {
			if !slices.Equal(c.MatchLabelKeys, []string{"pod-template-hash"}) {
				t.Errorf("spread over %s counts pods of old templates", c.TopologyKey)
			}
		}
		if n := len(spec.TopologySpreadConstraints); (n == 0) != (name == "daemonset") || (spec.Affinity == nil) != (name == "daemonset") {
			t.Errorf("%d constraints of the spread, affinity %v", n, spec.Affinity)
		}
		if p := spec.Containers[0].ReadinessProbe; p.FailureThreshold < 2 || p.TimeoutSeconds < 2 {
			t.Errorf("the readiness probe fails at the first slow answer: %+v", p)
		}
	})
}

// TestSpread: a constraint whose label some nodes lack would undo that of nodes,
// so zones are a preference; what users give replaces either.
func TestSpread(t *testing.T) {
	const constraint = "{maxSkew: 2, topologyKey: example.com/rack, whenUnsatisfiable: DoNotSchedule}"
	for text, want := range map[string]string{
		"{}": "kubernetes.io/hostname topology.kubernetes.io/zone",
		"topologySpreadConstraints: [" + constraint + "]": "example.com/rack topology.kubernetes.io/zone",
		"affinity: {nodeAffinity: {}}":                    "kubernetes.io/hostname",
	} {
		out, err := helm(t, "template", "edge", chart, "-f", values(t, text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		spec := podTemplate(t, out).Spec
		var got []string
		for _, c := range spec.TopologySpreadConstraints {
			got = append(got, c.TopologyKey)
		}
		if anti := spec.Affinity.PodAntiAffinity; anti != nil {
			for _, p := range anti.PreferredDuringSchedulingIgnoredDuringExecution {
				got = append(got, p.PodAffinityTerm.TopologyKey)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: spread over %q, want %s", text, got, want)
		}
	}
}

// TestHooksGo: whatever a hook comes to, nothing of it stays but a failed test,
// whose log is wanted.
func TestHooksGo(t *testing.T) {
	forEach(t, func(t *testing.T, _, text string) {
		hooks := 0
		for _, u := range objects(t, text) {
			if u.GetAnnotations()["helm.sh/hook"] != "post-delete" {
				continue
			}
			hooks++
			for _, when := range []string{"before-hook-creation", "hook-succeeded", "hook-failed"} {
				if policy := u.GetAnnotations()["helm.sh/hook-delete-policy"]; !slices.Contains(strings.Split(policy, ","), when) {
					t.Errorf("%s %s: deleted %s, not %s", u.GetKind(), u.GetName(), policy, when)
				}
			}
		}
		if hooks < 4 {
			t.Errorf("%d hooks after the uninstall", hooks)
		}
	})
}

// TestPlainManifests: what kubectl apply -k takes is the chart's, of whose image
// one names where it is.
func TestPlainManifests(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../config/install")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kustomization.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mine := strings.NewReplacer("newName: portico.dev/portico", "newName: example.test/mine", "newTag: 0.1.0", "newTag: v2").Replace(string(text))
	if err := os.WriteFile(file, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	out := envtest.Kubectl(t, "kustomize", dir)
	if image := podTemplate(t, out).Spec.Containers[0].Image; image != "example.test/mine:v2" {
		t.Errorf("the image is %s", image)
	}
	if strings.Contains(out, "Helm") {
		t.Error("they say that helm manages them")
	}
	serverTakes(t, server(t), out)
}
