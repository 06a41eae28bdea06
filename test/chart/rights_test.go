package chart

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// rights are verbs by resource and group.
type rights map[string][]string

func (r rights) add(rules []rbacv1.PolicyRule) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				r[resource+"."+group] = append(r[resource+"."+group], rule.Verbs...)
			}
		}
	}
}

// used is every right that the controller uses, as the markers beside its code
// have it: where it watches, in its own namespace, and in that of account keys
// and certificates.
func used(t *testing.T) (watched, own, storage rights) {
	t.Helper()
	text, err := os.ReadFile("../../config/rbac/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	watched, own, storage = rights{}, rights{}, rights{}
	for _, u := range objects(t, string(text)) {
		r := map[string]rights{"": watched, "portico-system": own, "portico-acme": storage}[u.GetNamespace()]
		r.add(as[rbacv1.ClusterRole](t, u).Rules) // a Role has them too
	}
	if len(watched) == 0 || len(own) == 0 || len(storage) == 0 {
		t.Fatal("no rights")
	}
	return watched, own, storage
}

// usedByCertificates is the right to write the Secrets that spec.tls names, where
// the values give it. There is none to delete.
var usedByCertificates = []string{"create", "update"}

// usedByProve is every right that helm test uses.
var usedByProve = rights{
	"deployments.apps":            {"create", "get", "patch", "delete"},
	"services.":                   {"create", "delete"},
	"ingresses.networking.k8s.io": {"create", "delete"},
}

// TestRights: no right beyond what is used, none by "*", and Secrets never
// wider than the values say.
func TestRights(t *testing.T) {
	watched, own, storage := used(t)
	written := rights{"secrets.": usedByCertificates}
	everywhere := maps.Clone(watched)
	everywhere["secrets."] = slices.Concat(watched["secrets."], usedByCertificates)
	forEach(t, func(t *testing.T, name, text string) {
		for _, u := range objects(t, text) {
			if u.GetKind() != "ClusterRole" && u.GetKind() != "Role" {
				continue
			}
			for _, rule := range as[rbacv1.ClusterRole](t, u).Rules {
				allowed := watched
				switch ours := u.GetKind() == "Role" && u.GetName() == "edge-portico"; {
				case strings.HasSuffix(u.GetName(), "-prove"):
					allowed = usedByProve
				case strings.HasSuffix(u.GetName(), "-acme") && (u.GetNamespace() == "portico-acme" || u.GetNamespace() == "certs"):
					allowed = storage
				case strings.HasSuffix(u.GetName(), "-certificates") && u.GetNamespace() == "shop":
					allowed = written
				case name == "acmewide" && u.GetKind() == "ClusterRole":
					allowed = everywhere
				case ours && !slices.Equal(rule.ResourceNames, []string{u.GetName()}): // else the Service whose addresses are published
					allowed = own
				}
				checkRule(t, u.GetKind()+" "+u.GetNamespace()+"/"+u.GetName(), rule, allowed)
				if slices.Contains(rule.Resources, "secrets") && name == "namespaces" && u.GetNamespace() != "shop" && len(rule.ResourceNames) == 0 {
					t.Errorf("%s %s/%s reads Secrets outside of the listed namespace", u.GetKind(), u.GetNamespace(), u.GetName())
				}
			}
		}
	})
}

func checkRule(t *testing.T, role string, rule rbacv1.PolicyRule, used rights) {
	t.Helper()
	if len(rule.NonResourceURLs) > 0 {
		t.Errorf("%s: rights on URLs: %v", role, rule.NonResourceURLs)
	}
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			allowed := used[resource+"."+group]
			for _, verb := range rule.Verbs {
				if !slices.Contains(allowed, verb) {
					t.Errorf("%s: %s on %s.%s is not used", role, verb, resource, group)
				}
			}
		}
	}
}
