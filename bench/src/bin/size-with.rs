//! A program that loads laminar-xdp. The benchmark subtracts the size of `size-without` from
//! the size of this program.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:?}", std::env::args());
    let config = laminar_xdp::XdpConfig::builder().enabled(true).build()?;
    let loader = laminar_xdp::XdpLoader::load_and_attach(&config, &[0])?;
    println!("{:?}", loader.stats()?);
    Ok(())
}
