package translate

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// ClassAnnotation is the way in which Ingresses named their class before
// spec.ingressClassName.
const ClassAnnotation = "kubernetes.io/ingress.class"

// ownDomain begins the controller names that are nobody else's: the default,
// and those of further instances such as portico.dev/internal.
const ownDomain = "portico.dev/"

// defaultClassAnnotation marks an IngressClass as the cluster's default.
const defaultClassAnnotation = "ingressclass.kubernetes.io/is-default-class"

// Classes knows which Ingresses are ours. Immutable.
type Classes struct {
	opts        Options
	controllers map[string]string // spec.controller by class name
	defaultOurs bool
}

// NewClasses reads all IngressClasses of the cluster or folder.
func NewClasses(opts Options, all []*networkingv1.IngressClass) *Classes {
	c := &Classes{opts: opts, controllers: map[string]string{}}
	for _, class := range all {
		c.controllers[class.Name] = class.Spec.Controller
		if class.Annotations[defaultClassAnnotation] == "true" && c.isOurs(class.Name) {
			c.defaultOurs = true
		}
	}
	return c
}

func (c *Classes) isOurs(class string) bool {
	return slices.Contains(c.opts.controllerNames(), c.controllers[class])
}

// Names returns the classes that are ours, sorted.
func (c *Classes) Names() []string {
	var names []string
	for name := range c.controllers {
		if c.isOurs(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Missing says in words why no Ingress of any class is served, and what to do;
// empty if there is a class that is ours, or none is needed.
func (c *Classes) Missing() string {
	if c.opts.WatchWithoutClass || len(c.Names()) > 0 {
		return ""
	}
	names := c.opts.controllerNames()
	there := "there is none at all"
	if len(c.controllers) > 0 {
		var all []string
		for name, controller := range c.controllers {
			all = append(all, fmt.Sprintf("%s (%s)", name, controller))
		}
		slices.Sort(all)
		there = "there are: " + strings.Join(all, ", ")
	}
	return fmt.Sprintf("no IngressClass has the controller %s, so no Ingress is served; %s; create one, or say with --controller-name which controller's classes to serve",
		strings.Join(names, " or "), there)
}

// Only returns those of the Ingresses that are ours.
func (c *Classes) Only(all []*networkingv1.Ingress) []*networkingv1.Ingress {
	var ours []*networkingv1.Ingress
	for _, ing := range all {
		if is, _ := c.Ours(ing); is {
			ours = append(ours, ing)
		}
	}
	return ours
}

// Foreign reports whether the class of an Ingress is ours only because a
// controller name of another project was added to --controller-name.
func (c *Classes) Foreign(ing *networkingv1.Ingress) bool {
	name, _ := className(ing)
	controller := c.controllers[name]
	return controller != "" && !strings.HasPrefix(controller, ownDomain)
}

// ServesForeign reports whether a controller name of another project is served.
func ServesForeign(opts Options) bool {
	return slices.ContainsFunc(opts.controllerNames(), func(n string) bool { return !strings.HasPrefix(n, ownDomain) })
}

// className returns the class that an Ingress names; spec.ingressClassName
// goes before the old annotation.
func className(ing *networkingv1.Ingress) (name string, annotation bool) {
	if n := ing.Spec.IngressClassName; n != nil {
		return *n, false
	}
	return ing.Annotations[ClassAnnotation], true
}

// Ours reports whether an Ingress is ours to serve, and in words why or why
// not.
//
// In a folder there is no admission to fill in a default class, and often no
// IngressClass at all: there, an Ingress without class is ours if the default
// class is or if the folder holds no IngressClass, and without any IngressClass
// a class name restricts nothing.
func (c *Classes) Ours(ing *networkingv1.Ingress) (ours bool, why string) {
	name, annotation := className(ing)
	controller, exists := c.controllers[name]
	switch {
	case name == "":
		return c.oursWithoutClass()
	case c.opts.Folder && len(c.controllers) == 0:
		return true, fmt.Sprintf("the folder holds no IngressClass, so class %q restricts nothing", name)
	case annotation && !c.isOurs(name):
		return false, fmt.Sprintf("annotation %s is %q, which is none of our classes (%s)", ClassAnnotation, name, c.remedy(name))
	case !exists:
		return false, fmt.Sprintf("IngressClass %q does not exist (%s)", name, c.remedy(name))
	case !c.isOurs(name):
		return false, fmt.Sprintf("IngressClass %q belongs to controller %q; --controller-name=%s would serve it", name, controller, controller)
	}
	return true, fmt.Sprintf("IngressClass %q has controller %q", name, controller)
}

// remedy says how an Ingress of that class could be served.
func (c *Classes) remedy(name string) string {
	if controller := c.controllers[name]; controller != "" {
		return fmt.Sprintf("its controller is %q; --controller-name=%s would serve it", controller, controller)
	}
	if names := c.Names(); len(names) > 0 {
		return "ours: " + strings.Join(names, ", ")
	}
	return "create an IngressClass with controller " + c.opts.controllerNames()[0]
}

func (c *Classes) oursWithoutClass() (bool, string) {
	switch {
	case c.opts.WatchWithoutClass:
		return true, "it names no class, and --watch-without-class is on"
	case c.opts.Folder && c.defaultOurs:
		return true, "it names no class, and the default class is ours"
	case c.opts.Folder && len(c.controllers) == 0:
		return true, "it names no class, and the folder holds no IngressClass"
	}
	return false, "it names no class; set spec.ingressClassName, or start with --watch-without-class"
}
