package javax.annotation;

/** As generated Java names it; the library that has it is not on PyPI. */
public @interface Generated {
  String[] value();

  String date() default "";

  String comments() default "";
}
